"""Sweeps: their plan, the jobs that carry it out, and their results."""
