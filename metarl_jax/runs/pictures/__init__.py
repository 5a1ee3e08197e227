"""Plots, pages and videos of runs and tasks."""
