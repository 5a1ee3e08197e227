"""Everything that touches disk or a terminal: configuration, checkpoints, logs, pictures, and runs made of them.

`run.train_run` and `evaluate.evaluate_run` are what the scripts do. The maths never imports this package.
"""
