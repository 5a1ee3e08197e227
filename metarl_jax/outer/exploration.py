"""Credit of episodes for later stages' returns: data, which `metarl_jax.outer.credit` weighs their scores with."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metarl_jax.base import Trial
from metarl_jax.inner.returns import as_at_start
from metarl_jax.outer.meta_gradient import Parts, replay
from metarl_jax.policies.likelihood import mean_of_counted
from metarl_jax.types import PyTree, Stage


def exploration_credit(data: Stage, trial: Trial, discount: float = 1.0) -> jax.Array:
    """C_kn = Y_k − b_kn: what episode n of stage k is credited with, leaves [B, S, N].

    Y_k = Σ_{s>k, s counted} R_s / (number of counted stages). R_s is the mean return Σ_t γᵗ r_t of stage s in the
    units that the stage losses have: over T, and over the mean scale of the advantages of the OTHER tasks. Weighing
    ∇log p(τ_kn) with Y_k makes the gradient of the sampled update unbiased, and any b_kn that is independent of episode
    n keeps it so. Where losses are means over the steps taken (`average="valid"`), the mean length of the OTHER tasks'
    episodes stands for T.

    b_kn predicts Y_k from the OTHER episodes' returns at the same stage: a ridge fit to the OTHER tasks' mean return at
    stage k and Y_k, which tells easy tasks from hard ones. With one episode, or fewer than five tasks, b is the
    other tasks' mean of Y_k; with one task it is 0, and the units are its own.

    Void episodes are left out of all this. Y_k is unknown where a counted stage after k has nothing but void ones; such
    a task, or one whose stage k has, is credited with 0 there and is no example for the others. So is a task that has
    lost all examples.

    Args:
        data: leaves [B, S, ...].
        trial: its sizes.
        discount: γ of J(θ).
    """
    trajectory = data.trajectory
    sound = ~trajectory.void
    reward = as_at_start(jnp.where(trajectory.valid, trajectory.reward, 0), discount)
    returns = reward.sum(-1)  # [B, S, N]
    room = mean_of_counted(trajectory.room.astype(returns.dtype), sound, -1)
    tasks, _, episodes = returns.shape
    counted = jnp.arange(trial.stages) >= trial.first_counted
    met = sound.any(-1)  # [B, S]
    unknown = jnp.cumsum((counted & ~met)[:, ::-1], axis=-1)[:, ::-1] - (counted & ~met)
    usable = met & (unknown == 0)

    def of_others(values, known):  # mean over the other tasks, of those that are known, [B, ...]
        values, others = jnp.where(known, values, 0), known.sum(0) - known
        if tasks == 1:
            return values
        # The second factor is 1 where all are known.
        return (values.sum(0) - values) / (tasks - 1) * ((tasks - 1) / jnp.maximum(others, 1))

    # Whose units (axis 0), of which task (axis 1): task b is compared with the others in units that it has no part in.
    units = of_others(room, met) * of_others(data.scale, met)
    in_units = mean_of_counted(returns, sound, -1) / jnp.where(units > 0, units, 1)[:, None]
    weighed = jnp.where(counted, in_units, 0) / counted.sum()
    later = jnp.cumsum(weighed[..., ::-1], axis=-1)[..., ::-1] - weighed  # [B, B, S]
    later = jnp.where(usable, later, 0)
    own = jnp.diagonal(later).T
    if tasks == 1:
        return jnp.broadcast_to(own[..., None], returns.shape)

    examples = usable.sum(0) - usable
    share = (tasks - 1) / jnp.maximum(examples, 1)
    expected = ((later.sum(1) - own) / (tasks - 1) * share)[..., None]
    if episodes > 1 and tasks > 4:
        level = returns - mean_of_counted(returns, sound, (0, 2))[:, None]  # centred, for the squares' sake only
        level = jnp.where(sound, level, 0)
        x = jnp.where(usable, mean_of_counted(level, sound, -1), 0)
        x_others, y_others = of_others(x, usable), expected[..., 0]
        covariance = ((x * later).sum(1) - x * own) / (tasks - 1) * share - x_others * y_others
        square = of_others(mean_of_counted(level**2, sound, -1), usable)
        # Shrunk by the spread of single episodes, and none where what is left of it is rounding: means that differ in
        # the last digit must not make a slope.
        spread = of_others(x**2, usable) - x_others**2 + 0.1 * jnp.maximum(square - x_others**2, 0)
        fits = (spread > 1e-6 * square) & (usable.sum(0) > 4)
        slope = jnp.where(fits, covariance / jnp.where(fits, spread, 1), 0)
        others = sound.sum(-1, keepdims=True) - 1  # of a sound episode
        other_episodes = (level.sum(-1, keepdims=True) - level) / (episodes - 1)
        other_episodes = other_episodes * ((episodes - 1) / jnp.maximum(others, 1))
        expected = expected + slope[..., None] * jnp.where(others > 0, other_episodes - x_others[..., None], 0)
    return jnp.where((usable & (examples > 0))[..., None], own[..., None] - expected, 0)


def minus_mean_of_others(values: Float[Array, "*batch N"], sound: Bool[Array, "*batch N"]) -> Float[Array, "*batch N"]:
    """x_n minus the mean of the other sound episodes' x; x_n where there are none, and 0 where n is not sound."""
    values = jnp.where(sound, values, 0)
    others = sound.sum(-1, keepdims=True) - 1
    return jnp.where(sound, values - (values.sum(-1, keepdims=True) - values) / jnp.maximum(others, 1), 0)


def influence(parts: Parts, theta: PyTree, data: Stage) -> jax.Array:
    """C_kn = −∂loss/∂w_kn less the mean of the other episodes' of its stage, at w = 1; leaves [B, S, N].

    w_kn weighs the advantages of episode n of stage k in the inner step that learns from it, so its derivative is what
    this episode changed of the later return, and of all else in the outer loss, where `exploration_credit` gives every
    episode the whole return. What the other episodes made of it never enters, which takes away most of the noise. What
    is left out is of second order: how the step's effect depends on two episodes at once. So the gradient is biased
    where inner steps are long. With one episode there is no mean to subtract. A step without a derivative, as that of
    `metarl_jax.inner.first_order`, has no influence at all.

    Void episodes have no credit, and are no others. Data whose credit is 0 are expected.
    """

    def of_task(data):
        def loss(weights):
            weighed = dataclasses.replace(data, advantage=data.advantage * weights[..., None])
            path = replay(parts, theta, weighed)
            return parts.objective(parts.policy, dataclasses.replace(path, data=data))[0]

        return -jax.grad(loss)(jnp.ones_like(data.credit))

    found = jax.lax.stop_gradient(parts.memory.over_tasks(of_task, data))
    return minus_mean_of_others(found, ~data.trajectory.void)


CREDITS: dict[str, Callable[[Parts, PyTree, Stage], jax.Array]] = {
    "return": lambda parts, theta, data: exploration_credit(data, parts.trial, parts.discount),
    "influence": influence,
}
"""``(parts, θ, collected data) → C [B, S, N]`` by name: what `metarl_jax.outer.credit` weighs log p(τ) with."""
