"""Fitted classifiers: what a reply did, learned from labelled replies."""
