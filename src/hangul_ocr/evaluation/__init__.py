"""Scores, error analysis and plots on strings, scores and arrays alone."""
