"""Adapts a trained run to held-out tasks: a table, evaluation.json and adaptation.png in the run's folder.

python experiments/evaluate.py runs/mine
python experiments/evaluate.py runs/mine --steps 10                       # more steps, the rate halved at each one
python experiments/evaluate.py runs/mine --steps 100 --inner-lr-beyond inverse_sqrt   # many, each with α√(L/(s + 1))
python experiments/evaluate.py runs/mine --stage-steps 4000 --episodes 100   # stages by environment steps, as in papers
python experiments/evaluate.py runs/mine --split ood                      # tasks outside the training distribution
python experiments/evaluate.py runs/mine --steps 1000 --burn-in 500       # a long trial, only the second half counts
python experiments/evaluate.py --zoo point-nav/maml-trpo                  # a trained θ of the package
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import sys

from metarl_jax.commands.evaluate import main, start

__all__ = ["main", "start"]

if __name__ == "__main__":
    sys.exit(start())
