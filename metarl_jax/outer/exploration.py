"""Credit of episodes for the returns of later stages: the weights of their scores in `metarl_jax.outer.credit`."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metarl_jax.base import Trial
from metarl_jax.inner.returns import as_at_start
from metarl_jax.outer.meta_gradient import Parts, replay
from metarl_jax.policies.likelihood import mean_of_counted
from metarl_jax.types import Number, PyTree, Stage

FLOOR = 0.1
"""The share of a task's own units below which those of the other tasks do not count."""
FLOOR_OF_RETURN = 0.01
"""The share of the largest mean return of a stage below which no units count: then advantages are only noise."""


def exploration_credit(data: Stage, trial: Trial, discount: Number = 1.0) -> jax.Array:
    """C_kn = Y_k − b_kn: the credit of episode n of stage k, leaves [B, S, N].

    Y_k = Σ_{s>k, s counted} R_s / (number of counted stages). R_s is the mean return Σ_t γᵗ r_t of stage s in the units
    of the stage losses: divided by T and by the mean advantage scale of the OTHER tasks. With weights Y_k on
    ∇log p(τ_kn) the gradient of the sampled update is unbiased, and it stays unbiased for any b_kn that is independent
    of episode n. Under a budget of steps (`Trial.stage_steps`) an episode's length decides which later ones count, so
    b_kn and with it the gradient have a bias that vanishes with N. If losses are means over the steps taken
    (`average="valid"`), T is replaced by the mean episode length of the OTHER tasks. Where these have hardly an
    advantage, as when a single task has found a sparse reward, they have no units to speak of. So the units are at
    least a tenth of the task's own, and a hundredth of the largest |R_s| of a task, which bounds C and then biases the
    gradient.

    b_kn predicts Y_k from the returns of the OTHER episodes of the same stage, by a ridge regression of Y_k on the mean
    return at stage k over the OTHER tasks. This separates easy from hard tasks. With one episode, or fewer than five
    tasks, b is the mean of Y_k over the other tasks. With one task, b is 0 and the task's own units are used.

    Void episodes are ignored. Y_k is undefined if all episodes of a counted stage after k are void. A task with
    undefined Y_k, or with only void episodes in stage k, gets credit 0 there and is excluded from the regression of the
    others. A task with no other usable task also gets credit 0.

    Args:
        data: leaves [B, S, ...].
        trial: the sizes of the trial.
        discount: γ of J(θ).
    """
    trajectory = data.trajectory
    sound = ~trajectory.void
    reward = as_at_start(jnp.where(trajectory.valid, trajectory.reward, 0), discount)
    returns = reward.sum(-1)  # [B, S, N]
    room = mean_of_counted(trajectory.room.astype(returns.dtype), sound, -1)
    tasks, _, episodes = returns.shape
    counted = jnp.arange(trial.stages) >= trial.first_counted
    has_episode = sound.any(-1)  # [B, S]
    missing_after = jnp.cumsum((counted & ~has_episode)[:, ::-1], axis=-1)[:, ::-1] - (counted & ~has_episode)
    usable = has_episode & (missing_after == 0)

    def mean_of_others(values, mask):  # leave-one-out mean over the tasks in `mask`, [B, ...]
        values, others = jnp.where(mask, values, 0), mask.sum(0) - mask
        if tasks == 1:
            return values
        # The second factor is 1 if `mask` is all True; it is separate so that results are bit-identical in that case.
        return (values.sum(0) - values) / (tasks - 1) * ((tasks - 1) / jnp.maximum(others, 1))

    # Axis 0: the task whose leave-one-out units are used. Axis 1: the task being rescaled.
    mean_return = mean_of_counted(returns, sound, -1)
    own_units = jnp.where(has_episode, room * data.scale, 0)
    largest = jnp.where(has_episode, jnp.abs(mean_return), 0).max(0)
    units = mean_of_others(room, has_episode) * mean_of_others(data.scale, has_episode)
    units = jnp.maximum(units, jnp.maximum(FLOOR * own_units, FLOOR_OF_RETURN * largest))
    in_units = mean_return / jnp.where(units > 0, units, 1)[:, None]
    weighed = jnp.where(counted, in_units, 0) / counted.sum()
    later = jnp.cumsum(weighed[..., ::-1], axis=-1)[..., ::-1] - weighed  # [B, B, S]
    later = jnp.where(usable, later, 0)
    own_later = jnp.diagonal(later).T
    if tasks == 1:
        return jnp.broadcast_to(own_later[..., None], returns.shape)

    examples = usable.sum(0) - usable
    rescale = (tasks - 1) / jnp.maximum(examples, 1)
    expected = ((later.sum(1) - own_later) / (tasks - 1) * rescale)[..., None]
    if episodes > 1 and tasks > 4:
        # Centred for the numerical accuracy of the squares.
        centered = returns - mean_of_counted(returns, sound, (0, 2))[:, None]
        centered = jnp.where(sound, centered, 0)
        x = jnp.where(usable, mean_of_counted(centered, sound, -1), 0)
        x_others, y_others = mean_of_others(x, usable), expected[..., 0]
        covariance = ((x * later).sum(1) - x * own_later) / (tasks - 1) * rescale - x_others * y_others
        square = mean_of_others(mean_of_counted(centered**2, sound, -1), usable)
        # Shrink by the spread of single episodes. No slope if the spread is only rounding noise, such as means that
        # differ in the last digit.
        spread = mean_of_others(x**2, usable) - x_others**2 + 0.1 * jnp.maximum(square - x_others**2, 0)
        fits = (spread > 1e-6 * square) & (usable.sum(0) > 4)
        slope = jnp.where(fits, covariance / jnp.where(fits, spread, 1), 0)
        others = sound.sum(-1, keepdims=True) - 1  # for an episode that is not void
        other_episodes = (centered.sum(-1, keepdims=True) - centered) / (episodes - 1)
        other_episodes = other_episodes * ((episodes - 1) / jnp.maximum(others, 1))
        expected = expected + slope[..., None] * jnp.where(others > 0, other_episodes - x_others[..., None], 0)
    return jnp.where((usable & (examples > 0))[..., None], own_later[..., None] - expected, 0)


def minus_mean_of_others(values: Float[Array, "*batch N"], sound: Bool[Array, "*batch N"]) -> Float[Array, "*batch N"]:
    """x_n minus the mean of x over the other sound episodes; x_n if there are none, and 0 if n is not sound."""
    values = jnp.where(sound, values, 0)
    others = sound.sum(-1, keepdims=True) - 1
    return jnp.where(sound, values - (values.sum(-1, keepdims=True) - values) / jnp.maximum(others, 1), 0)


def influence(parts: Parts, theta: PyTree, data: Stage) -> jax.Array:
    """C_kn = −∂loss/∂w_kn at w = 1, minus its mean over the other episodes of the stage; leaves [B, S, N].

    w_kn is a weight on the advantages of episode n of stage k in the inner step that learns from it. The derivative
    measures how much this episode changed the outer loss, whereas `exploration_credit` gives each episode the whole
    later return. The effect of the other episodes does not enter, which removes most noise. Second-order effects,
    of two episodes jointly, are neglected, so the gradient is biased if inner steps are large. With one episode no mean
    is subtracted. An inner step without a derivative, as with `metarl_jax.inner.first_order`, gives credit 0.

    Void episodes get credit 0 and are excluded from the mean. The credit of `data` must be 0.
    """

    def of_task(data):
        def loss(weights):
            weighed = dataclasses.replace(data, advantage=data.advantage * weights[..., None])
            path = replay(parts, theta, weighed)
            return parts.objective(parts.policy, dataclasses.replace(path, data=data))[0]

        return -jax.grad(loss)(jnp.ones_like(data.credit))

    derivative = jax.lax.stop_gradient(parts.memory.over_tasks(of_task, data))
    return minus_mean_of_others(derivative, ~data.trajectory.void)


CREDITS: dict[str, Callable[[Parts, PyTree, Stage], jax.Array]] = {
    "return": lambda parts, theta, data: exploration_credit(data, parts.trial, parts.discount),
    "influence": influence,
}
"""``(parts, θ, collected data) → C [B, S, N]`` by name: the weights of log p(τ) in `metarl_jax.outer.credit`."""
