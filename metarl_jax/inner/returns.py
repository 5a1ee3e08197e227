"""Returns: sums of future rewards within an episode."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metarl_jax import checks
from metarl_jax.types import Number, Trajectory

STEPS_AT_ONCE = 20
"""Unrolled steps of a backward sum on an accelerator: each loop iteration launches kernels, and a step takes less time
than a launch."""


def backward_sum(terms: Float[Array, "N T"], factors: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """y_t = terms_t + factors_t · y_{t+1}, with y_T = 0."""
    at_once = partial(sum_in_pieces, steps=STEPS_AT_ONCE)
    return jax.lax.platform_dependent(terms, factors, cpu=partial(sum_in_pieces, steps=1), default=at_once)


def sum_in_pieces(terms: Float[Array, "N T"], factors: Float[Array, "N T"], steps: int) -> Float[Array, "N T"]:
    """`backward_sum` by a loop unrolled by `steps`, which changes the result only by rounding."""

    def step(next_total, inputs):
        term, factor = inputs
        total = term + factor * next_total
        return total, total

    _, total = jax.lax.scan(step, jnp.zeros_like(terms[:, 0]), (terms.T, factors.T), reverse=True, unroll=steps)
    return total.T


def as_at_start(values: Float[Array, "*batch T"], discount: Number) -> Float[Array, "*batch T"]:
    """γᵗ · values_t: values at time t, discounted to the start of the episode."""
    if not checks.traced(discount) and discount == 1:
        return values
    return values * jnp.asarray(discount, jnp.result_type(values, float)) ** jnp.arange(values.shape[-1])


def reward_to_go(trajectory: Trajectory, discount: Number = 1.0) -> Float[Array, "N T"]:
    """G_t = Σ_{k≥t} γ^{k−t} r_k within the episode, without bootstrapping; 0 on padding."""
    reward = jnp.where(trajectory.valid, trajectory.reward, 0)
    return backward_sum(reward, jnp.full_like(reward, discount))


def td_errors(
    trajectory: Trajectory,
    values: Float[Array, "N T"],
    next_values: Float[Array, "N T"],
    discount: Number,
) -> Float[Array, "N T"]:
    """δ_t = r_t + γ d_t V(s_{t+1}) − V(s_t), 0 on padding.

    V(s_{t+1}) is used if the episode continues or was truncated; d_t is 0 if it terminated. The sum of δ over the rest
    of an episode with weights γ^{k−t} is the return minus V(s_t).
    """
    valid = trajectory.valid
    goes_on = jnp.concatenate([valid[:, 1:], jnp.zeros_like(valid[:, :1])], axis=1)
    bootstrap = jnp.where(goes_on | trajectory.truncated, next_values, 0)
    return jnp.where(valid, trajectory.reward + discount * trajectory.discount * bootstrap - values, 0)
