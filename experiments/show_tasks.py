"""Shows a task family: its card, a picture of sampled tasks, and the returns of a random policy and of doing nothing.

python experiments/show_tasks.py cheetah-vel
python experiments/show_tasks.py reacher-goal --tasks 400 --env-option goal_radius=0.1
"""

if __name__ == "__main__":  # Ctrl-C while the rest is imported
    from metarl_jax.runs import startup

    startup.quiet()

import sys

from metarl_jax.commands.show_tasks import main, start

__all__ = ["main", "start"]

if __name__ == "__main__":
    sys.exit(start())
