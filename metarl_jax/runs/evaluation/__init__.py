"""Evaluations of runs, their reports, and comparisons of algorithms."""
