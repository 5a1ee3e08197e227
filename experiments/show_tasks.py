"""Shows a task family: its card, a plot of sampled tasks, and the returns of a random policy and of action 0.

python experiments/show_tasks.py cheetah-vel
python experiments/show_tasks.py reacher-goal --tasks 400 --env-option goal_radius=0.1
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import sys

from metarl_jax.commands.show_tasks import main, start

__all__ = ["main", "start"]

if __name__ == "__main__":
    sys.exit(start())
