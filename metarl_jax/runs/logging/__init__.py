"""Metrics and progress while a run trains."""
