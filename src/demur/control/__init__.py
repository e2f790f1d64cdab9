"""Control: from scores to decisions, thresholds with promises, policies as files; numbers and text only."""
