"""ANIL: almost no inner loop."""

import dataclasses

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.inner.resolve import FastParameters
from metarl_jax.keywords import by_keyword


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnilOptions(MamlOptions):
    """Those of `maml`; the inner loop moves less."""

    fast_parameters: FastParameters = "head"


@by_keyword(AnilOptions)
def anil(env: TaskEnv, options: AnilOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]) where the inner steps move the last layer (and σ) only.

    Objective: as `maml`.

    Raghu, Raghu, Bengio, Vinyals (2020, arXiv:1909.09157).
    """
    return maml.build(env, options)
