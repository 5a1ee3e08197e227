"""Rates of the inner steps, during training and beyond its number of steps.

A policy-gradient step from n episodes consists of signal and noise, and the noise alone moves the policy by about
α² / (σ² n) nats. Near the end of an adaptation the signal is small, but a constant rate continues to add noise, so more
steps than the L of training at the same rate make φ worse. Therefore the rates decay beyond L.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metarl_jax import checks
from metarl_jax.base import InnerOptimizer

Rate: TypeAlias = float | Sequence[float] | Callable[[jax.Array], jax.Array | float]
"""α of the inner steps; or one rate per step, with the last used for all further steps of training; or a schedule, a
function of the step 0, 1, 2, … (int32, traced) such as those of optax."""

BEYOND: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "decay": lambda further, last: jnp.exp2(-further),
    "inverse_sqrt": lambda further, last: jnp.sqrt(last / (last + further)),
    "constant": lambda further, last: jnp.ones_like(further),
}
"""Factor on the last rate for the k-th step beyond the M given rates: ``(k, M) → factor``, k = 1, 2, …

``decay``: 2^−k, so all further steps together are at most one step at the last rate; for a few further steps.
``inverse_sqrt``: √(M / (M + k)), an unbounded sum with decreasing noise per step; for trials of hundreds of steps.
``constant``: 1.
"""


def _entries(inner_lr: Any) -> list:
    """The rates one by one, each a number, which may be traced."""
    if not any(isinstance(rate, Tracer) for rate in jax.tree.leaves(inner_lr)):
        return np.atleast_1d(np.asarray(inner_lr, dtype=object)).tolist()
    return [inner_lr] if checks.traced(inner_lr) else [*inner_lr]


def listed(inner_lr: Rate, check: Callable[[str, object], float] = checks.non_negative) -> list[float] | None:
    """The rates as a list of at least one number; None for a schedule, of which only the first rate is checked.

    Raises:
        ValueError: a rate fails the check, or there is none.
    """
    if callable(inner_lr):
        check("inner_lr at step 0", checks.schedule("inner_lr", inner_lr))
        return None
    rates = [check("inner_lr", rate) for rate in _entries(inner_lr)]
    if not rates:
        raise ValueError(f"inner_lr is {inner_lr!r}; it must be a rate, or a sequence of at least one per step")
    return rates


def schedule(
    inner_lr: Rate, check: Callable[[str, object], float] = checks.non_negative
) -> Callable[[jax.Array], jax.Array]:
    """``step → rate``; a sequence is extended by its last rate.

    Raises:
        ValueError: as in `listed`.
    """
    rates = listed(inner_lr, check)
    if rates is None:
        assert callable(inner_lr)
        rate_of = inner_lr
        return lambda step: jnp.asarray(rate_of(step), float)
    return lambda step: jnp.asarray(rates, float)[jnp.minimum(step, len(rates) - 1)]


def given_steps(trained: int, rate: Rate) -> int | None:
    """M, the number of steps with given rates: L, or the length of a longer sequence; None for a schedule."""
    return None if callable(rate) else max(trained, 1, len(_entries(rate)))


def falling(optimizer: InnerOptimizer, last: int | None, rule: str) -> InnerOptimizer:
    """Wraps any optimiser so that steps after the first `last` ones are shortened.

    φ moves by c_k U instead of U, with the factor c_k of `BEYOND`. If the step is proportional to the rate, as in all
    optimisers of this package, this is a decay of the rate. The first `last` steps are unchanged to the last bit.

    Args:
        optimizer: U.
        last: M, at least 1; None: a schedule defines the rates of all steps.
        rule: a name of `BEYOND`.

    Raises:
        ValueError: the name is unknown.
    """
    factor = BEYOND[checks.one_of("inner_lr_beyond", rule, BEYOND)]
    if last is None or rule == "constant":
        return optimizer

    def init(params):
        return jnp.zeros((), jnp.int32), optimizer.init(params)

    def update(gradient, state, params, learned=()):
        step, inner_state = state
        proposed, inner_state = optimizer.update(gradient, inner_state, params, learned)
        further = jnp.maximum(step + 1 - last, 0)
        step_factor = factor(further.astype(float), last)

        def shorten(old, new):
            return jnp.where(further == 0, new, old + step_factor.astype(new.dtype) * (new - old))

        return jax.tree.map(shorten, params, proposed), (step + 1, inner_state)

    return optimizer._replace(init=init, update=update)


def taken(inner_lr: Rate, steps: int, trained: int, rule: str = "decay") -> list[float]:
    """The rates of the first `steps` inner steps, as numbers.

    Args:
        inner_lr: the option of the algorithm.
        steps: L'.
        trained: L.
        rule: a name of `BEYOND`, for the steps beyond the given rates.
    """
    rates, last = listed(inner_lr), given_steps(trained, inner_lr)
    factor = BEYOND[checks.one_of("inner_lr_beyond", rule, BEYOND)]

    def of_step(step):
        if rates is None or last is None:
            assert callable(inner_lr)
            return float(inner_lr(jnp.asarray(step)))
        further = step + 1 - last
        rate = rates[min(step, len(rates) - 1)]
        return rate if further <= 0 else rate * float(factor(jnp.asarray(float(further)), last))

    return [of_step(step) for step in range(steps)]
