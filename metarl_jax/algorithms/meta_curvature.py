"""Meta-curvature: MAML with a learned preconditioner."""

from collections.abc import Callable

from metarl_jax.algorithms.maml import maml
from metarl_jax.base import InnerOptimizer, MetaAlgorithm, TaskEnv


def meta_curvature(
    env: TaskEnv,
    *,
    inner_optimizer: str | Callable[..., InnerOptimizer] = "curvature",
    **common,
) -> MetaAlgorithm:
    """θ, P ← Adam(∇ E_M[R(φ)]), φ = θ − α P_in ∇ surrogate(θ; D_0) P_out: a learned Kronecker-factored preconditioner.

    Objective: as `maml`.

    Park, Oliva (2019, arXiv:1902.03356).
    """
    return maml(env, inner_optimizer=inner_optimizer, **common)
