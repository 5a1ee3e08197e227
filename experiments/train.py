"""Meta-trains a policy and evaluates it on held-out tasks; all results are in one run folder.

python experiments/train.py                                    # default settings for this machine
python experiments/train.py --preset point-nav-finn2017        # named settings
python experiments/train.py --task cheetah-vel --algorithm maml --folder runs/mine
python experiments/train.py --resume --folder runs/mine        # continue a stopped run
python experiments/train.py --task point-nav --seeds 5         # five independent runs in one program
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import sys

from metarl_jax.commands.train import main, start

__all__ = ["main", "start"]

if __name__ == "__main__":
    sys.exit(start())
