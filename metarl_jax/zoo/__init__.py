"""Trained θ that come with the package, each from a run whose command, curve and evaluation come with it.

>>> mrl.zoo.names()
>>> run = mrl.zoo.load("point-nav/maml-trpo")

A folder of the zoo holds config.json, which says how θ was trained; theta.npz, its arrays by path; evaluation.json, as
`experiments/evaluate.py` writes it; metrics.csv, the training; and about.json: the command, date, hardware, licence,
and a digest of θ. `python -m metarl_jax.zoo add RUN NAME` makes one of a run.
"""

from metarl_jax.zoo.store import about, evaluation, load, names, unpack

__all__ = ["about", "evaluation", "load", "names", "unpack"]
