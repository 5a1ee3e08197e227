"""Meta-trains a policy, evaluates it on held-out tasks, and leaves everything in one run folder.

python experiments/train.py                                    # a default that suits this machine
python experiments/train.py --preset point-nav-finn2017        # named settings
python experiments/train.py --task cheetah-vel --algorithm maml --folder runs/mine
python experiments/train.py --resume --folder runs/mine        # go on after a stop
python experiments/train.py --task point-nav --seeds 5         # five independent runs in one program
"""

if __name__ == "__main__":  # Ctrl-C while the rest is imported
    from metarl_jax.runs import startup

    startup.quiet()

import sys

from metarl_jax.commands.train import main, start

__all__ = ["main", "start"]

if __name__ == "__main__":
    sys.exit(start())
