"""MAML through DiCE, the infinitely differentiable Monte-Carlo estimator."""

from metarl_jax.algorithms.maml import maml
from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv


def dice(env: TaskEnv, *, surrogate: str | Surrogate = "dice", **common) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]), φ = θ − α ∇DiCE(θ; D_0): the inner Hessian estimates that of the expected return.

    Objective: the expected update, φ = θ + α E[ĝ]. The Hessian is unbiased for unnormalised advantages whose baseline
    is independent of the episodes; what is left of bias is that φ is computed from a finite D_0.

    Foerster et al. (2018, arXiv:1802.05098).
    """
    return maml(env, surrogate=surrogate, **common)
