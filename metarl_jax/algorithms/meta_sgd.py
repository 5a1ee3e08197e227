"""Meta-SGD: MAML with learned inner rates."""

from collections.abc import Callable

from metarl_jax.algorithms.maml import maml
from metarl_jax.base import InnerOptimizer, MetaAlgorithm, TaskEnv


def meta_sgd(
    env: TaskEnv,
    *,
    inner_optimizer: str | Callable[..., InnerOptimizer] = "parameter_rates",
    **common,
) -> MetaAlgorithm:
    """θ, α ← Adam(∇ E_M[R(φ)]), φ = θ − α ∘ ∇ surrogate(θ; D_0): a learned positive rate for every parameter.

    `inner_optimizer="tensor_rates"` with a sequence of inner rates is MAML++'s rate per tensor and step.
    Objective: as `maml`.

    Li, Zhou, Chen, Li (2017, arXiv:1707.09835); Antoniou, Edwards, Storkey (2019, arXiv:1810.09502).
    """
    return maml(env, inner_optimizer=inner_optimizer, **common)
