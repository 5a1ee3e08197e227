"""Adapts a trained run to held-out tasks: a table, evaluation.json and adaptation.png in the run's folder.

python experiments/evaluate.py runs/mine
python experiments/evaluate.py runs/mine --steps 10                       # more steps, the rate halved at every one
python experiments/evaluate.py runs/mine --steps 100 --inner-lr-beyond inverse_sqrt   # many, each with α√(L/(s + 1))
python experiments/evaluate.py runs/mine --stage-steps 4000 --episodes 100   # stages of so many steps, as papers have
python experiments/evaluate.py runs/mine --split ood                      # tasks outside of the training distribution
python experiments/evaluate.py runs/mine --steps 1000 --burn-in 500       # a long trial, whose second half counts
python experiments/evaluate.py --zoo point-nav/maml-trpo                  # a θ that comes with the package
"""

if __name__ == "__main__":  # Ctrl-C while the rest is imported
    from metarl_jax.runs import startup

    startup.quiet()

import sys

from metarl_jax.commands.evaluate import main, start

__all__ = ["main", "start"]

if __name__ == "__main__":
    sys.exit(start())
