"""Constructive safety: guiding instead of refusing, scored by satisfaction and risk, improved by text-level search."""
