"""The scripts: a command line each, and what it starts. `entry` has what `pip install` makes commands of."""
