"""Checkpoints: what they hold, where it came from, and how a run goes on from one."""
