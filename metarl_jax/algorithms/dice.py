"""MAML through DiCE, the infinitely differentiable Monte-Carlo estimator."""

import dataclasses

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.keywords import by_keyword


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiceOptions(MamlOptions):
    """Those of `maml`, with another inner loss."""

    surrogate: str | Surrogate = "dice"


@by_keyword(DiceOptions)
def dice(env: TaskEnv, options: DiceOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]), φ = θ − α ∇DiCE(θ; D_0): the inner Hessian estimates that of the expected return.

    Objective: the expected update, φ = θ + α E[ĝ]. The Hessian is unbiased for unnormalised advantages whose baseline
    is independent of the episodes; what is left of bias is that φ is computed from a finite D_0.

    Foerster et al. (2018, arXiv:1802.05098).
    """
    return maml.build(env, options)
