"""f_θ: baselines, advantages, surrogates, inner optimisers, and the adapter made of them. All of it sees one task."""

from metarl_jax.inner.adapter import Fast, policy_gradient
from metarl_jax.inner.advantages import ADVANTAGES, gae, normalize, returns
from metarl_jax.inner.baselines import linear_feature, zero
from metarl_jax.inner.optimizers import first_order, sgd
from metarl_jax.inner.returns import reward_to_go
from metarl_jax.inner.surrogates import SURROGATES, likelihood_ratio, score_function

__all__ = [
    "ADVANTAGES",
    "SURROGATES",
    "Fast",
    "first_order",
    "gae",
    "likelihood_ratio",
    "linear_feature",
    "normalize",
    "policy_gradient",
    "returns",
    "reward_to_go",
    "score_function",
    "sgd",
    "zero",
]
