"""Trained parameters θ shipped with the package, each with the command, learning curve and evaluation of its run.

>>> mrl.zoo.names()
>>> run = mrl.zoo.load("point-nav/maml-trpo")

A folder of the zoo holds config.json, the configuration of the training; theta.npz, the arrays of θ by path;
evaluation.json, as written by `experiments/evaluate.py`; metrics.csv, the training metrics; and about.json, with the
command, date, hardware, licence, and a digest of θ. `python -m metarl_jax.zoo add RUN NAME` creates one from a run.
"""

from metarl_jax.zoo.store import about, evaluation, load, names, unpack

__all__ = ["about", "evaluation", "load", "names", "unpack"]
