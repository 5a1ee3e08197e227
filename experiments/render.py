"""Shows episodes of a trained run in held-out tasks before and after adaptation, side by side.

python experiments/render.py runs/mine                  # three tasks, into runs/mine/renders
python experiments/render.py runs/mine --tasks 5 --steps 3 --no-video
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import sys

from metarl_jax.commands.render import main, start

__all__ = ["main", "start"]

if __name__ == "__main__":
    sys.exit(start())
