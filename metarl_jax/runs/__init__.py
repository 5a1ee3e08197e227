"""Everything that touches disk or a terminal: configuration, checkpoints, logs, pictures, and runs made of them.

`run` holds the two actions of the scripts, `train_run` and `evaluate_run`. The maths never imports this package.
"""
