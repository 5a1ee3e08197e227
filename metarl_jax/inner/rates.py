"""Rates of the inner steps: those that training takes, and those of the steps beyond them.

A step of policy gradient from n episodes is signal and noise, and its noise alone moves the policy by about
α² / (σ² n) nats. Near the end of an adaptation the signal is gone, and a constant rate goes on adding that noise: where
training took L steps, further ones at the same rate make φ worse. So they fall.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.base import InnerOptimizer

Rate: TypeAlias = float | Sequence[float] | Callable[[jax.Array], jax.Array | float]
"""α of the inner steps, one rate per step, of which the last serves all further steps of training, or a schedule: a
function of the step's number 0, 1, 2, … (int32, traced), such as those of optax."""

BEYOND: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "decay": lambda further, last: jnp.exp2(-further),
    "inverse_sqrt": lambda further, last: jnp.sqrt(last / (last + further)),
    "constant": lambda further, last: jnp.ones_like(further),
}
"""By what factor of the last rate the k-th step beyond the M given ones moves φ: ``(k, M) → factor``, k = 1, 2, …

``decay``: 2^−k, so that all further steps together are as one more at the last rate; for a few. ``inverse_sqrt``:
√(M / (M + k)), which never ends and whose noise per step still falls; for trials of hundreds of steps. ``constant``: 1.
"""


def listed(inner_lr: Rate, check: Callable[[str, object], float] = checks.non_negative) -> list[float] | None:
    """The given rates as numbers, at least one; None of a schedule, whose first rate is checked.

    Raises:
        ValueError: a rate fails the check, or there is none.
    """
    if callable(inner_lr):
        check("inner_lr at step 0", checks.schedule("inner_lr", inner_lr))
        return None
    given = np.atleast_1d(np.asarray(inner_lr, dtype=object)).tolist()
    rates = [check("inner_lr", rate) for rate in given]
    if not rates:
        raise ValueError(f"inner_lr is {inner_lr!r}; it must be a rate, or a sequence of at least one per step")
    return rates


def schedule(
    inner_lr: Rate, check: Callable[[str, object], float] = checks.non_negative
) -> Callable[[jax.Array], jax.Array]:
    """``step → rate``; of a sequence, the last one serves all further steps.

    Raises:
        ValueError: as `listed`.
    """
    rates = listed(inner_lr, check)
    if rates is None:
        assert callable(inner_lr)
        given = inner_lr
        return lambda step: jnp.asarray(given(step), float)
    return lambda step: jnp.asarray(rates, float)[jnp.minimum(step, len(rates) - 1)]


def given_steps(trained: int, rate: Rate) -> int | None:
    """M, the steps whose rates are given: the L of training, or more where a sequence is longer; None: all are."""
    return None if callable(rate) else max(trained, 1, np.size(np.asarray(rate, dtype=object)))


def falling(optimizer: InnerOptimizer, last: int | None, rule: str) -> InnerOptimizer:
    """The rule whose steps beyond the first `last` ones are shortened, whatever it is.

    φ moves by c_k U instead of U, with the factor c_k of `BEYOND`; where the rate multiplies the whole step, as in all
    optimisers of this package, that is the rate's own fall. The first steps are the optimiser's to the last bit.

    Args:
        optimizer: U.
        last: M, at least 1; None: a schedule tells the rates of all steps.
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
        step, inner = state
        moved, inner = optimizer.update(gradient, inner, params, learned)
        further = jnp.maximum(step + 1 - last, 0)
        share = factor(further.astype(float), last)

        def shorten(old, new):
            return jnp.where(further == 0, new, old + share.astype(new.dtype) * (new - old))

        return jax.tree.map(shorten, params, moved), (step + 1, inner)

    return optimizer._replace(init=init, update=update)


def taken(inner_lr: Rate, steps: int, trained: int, rule: str = "decay") -> list[float]:
    """The rates of `steps` inner steps, as numbers.

    Args:
        inner_lr: as given to the algorithm.
        steps: L'.
        trained: L.
        rule: a name of `BEYOND`, for the steps beyond those whose rates are given.
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
