"""ANIL: almost no inner loop."""

from metarl_jax.algorithms.maml import maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.inner.resolve import FastParameters


def anil(env: TaskEnv, *, fast_parameters: FastParameters = "head", **common) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]) where the inner steps move the last layer (and σ) only.

    Objective: as `maml`.

    Raghu, Raghu, Bengio, Vinyals (2020, arXiv:1909.09157).
    """
    return maml(env, fast_parameters=fast_parameters, **common)
