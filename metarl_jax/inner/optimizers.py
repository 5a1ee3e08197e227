"""Inner optimisers: update rules for the fast parameters that can be differentiated, at zero gradient too."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.base import InnerOptimizer


def sgd(learning_rate: float | Sequence[float]) -> InnerOptimizer:
    """φ ← φ − α_s ∇φ.

    Args:
        learning_rate: α, or one rate per inner step; the last one serves all further steps. 0 leaves φ = θ.

    Raises:
        ValueError: a rate is negative or not finite, or there is none.
    """
    given = np.atleast_1d(np.asarray(learning_rate, dtype=object)).tolist()
    rates = [checks.non_negative("inner_lr", rate) for rate in given]
    if not rates:
        raise ValueError(f"inner_lr is {learning_rate!r}; it must be a rate, or a sequence of at least one per step")

    def update(gradient, step, params):
        rate = jnp.asarray(rates, float)[jnp.minimum(step, len(rates) - 1)]
        return jax.tree.map(lambda p, g: p - rate.astype(p.dtype) * g, params, gradient), step + 1

    return InnerOptimizer(lambda params: jnp.zeros((), jnp.int32), update)


def first_order(optimizer: InnerOptimizer) -> InnerOptimizer:
    """The same steps, taken as constant shifts of θ: no second derivative enters the meta-gradient."""

    def update(gradient, state, params):
        return optimizer.update(jax.lax.stop_gradient(gradient), state, params)

    return InnerOptimizer(optimizer.init, update)
