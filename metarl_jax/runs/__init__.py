"""All code that uses the disk or a terminal: configuration, checkpoints, logs, plots, and complete runs.

The scripts call functions such as `run.train_run` and `evaluate.evaluate_run`. Algorithms never import this package.
"""
