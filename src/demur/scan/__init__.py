"""Scanning logs of any size: verdicts for every row, in constant memory, on one machine or many."""
