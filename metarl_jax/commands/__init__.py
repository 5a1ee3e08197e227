"""Command lines of the scripts. `entry` has the entry points that `pip install` turns into commands."""
