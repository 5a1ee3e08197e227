"""Metrics of collected data: returns per stage, entropy, step norms and counts."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metarl_jax.policies.likelihood import masked_mean, mean_of_counted
from metarl_jax.soundness import measured
from metarl_jax.types import Metrics, PyTree, Stage, Trajectory

Measure = Callable[[Trajectory], Metrics]


def describe(trajectory: Trajectory, params: PyTree, measure: Measure | None = None) -> Metrics:
    """Metrics of collected data and of φ at each stage, leaves [B, S, ...].

    return [S] (undiscounted, per episode), gain (last stage minus first), entropy [S] in nats (sampled, −E log π),
    inner_step_norm (‖φ_{s+1} − φ_s‖₂, mean over tasks and steps), valid_share (steps taken / maximum number of steps),
    environment_steps, diverged_episodes, and what `measure`, that of the environment, gives.

    The return is the mean over all episodes that are not void, NaN if there are none; steps of void episodes are not
    counted as taken. If stages have a budget of steps, the return is first averaged within each task, because a task
    with short episodes has more of them, and spare episodes do not count in valid_share.

    Raises:
        ValueError: `measure` gives no dictionary, or a name that is taken.
    """
    returns = jnp.where(trajectory.valid, trajectory.reward, 0).sum(-1)
    not_void, room = ~trajectory.void, jnp.ones_like(trajectory.valid)
    if trajectory.spare is None:
        per_stage = mean_of_counted(returns, not_void, (0, 2))
    else:
        room = room & ~trajectory.spare[..., None]
        per_stage = mean_of_counted(mean_of_counted(returns, not_void, 2), not_void.any(2), 0)
    per_stage = jnp.where(not_void.any((0, 2)), per_stage, jnp.nan)
    step_norm = jax.vmap(jax.vmap(optax.tree.norm))(jax.tree.map(lambda leaf: jnp.diff(leaf, axis=1), params))
    metrics = {
        "return": per_stage,
        "gain": per_stage[-1] - per_stage[0],
        "entropy": -jax.vmap(masked_mean, in_axes=1)(trajectory.log_prob, trajectory.valid),
        "inner_step_norm": step_norm.sum() / max(step_norm.size, 1),
        "valid_share": masked_mean(trajectory.valid.astype(per_stage.dtype), room),
        "environment_steps": trajectory.valid.sum(),
        "diverged_episodes": trajectory.diverged.sum(),
    }
    return metrics if measure is None else joined(measured(measure, trajectory), metrics)


COLUMNS = ("iteration", "seed")
"""Names that a table of metrics has for itself."""


def joined(described: Metrics, further: Metrics) -> Metrics:
    """The metrics of the data and those of an algorithm's update.

    Raises:
        ValueError: the environment's `measure` gives a name that is taken.
    """
    if taken := described.keys() & {*further.keys(), *COLUMNS}:
        raise ValueError(f"measure of the environment gives {min(taken)!r}, a name that is taken; choose another")
    return described | further


def describe_window(data: Stage, measure: Measure | None = None) -> Metrics:
    """`describe` for windows of long lives, leaves [B, S, ...].

    Counts and `measure` exclude stage 0, which the last window counted, in what were its units if they are normalised.
    If all agents are new, stage 0 is void, and its return is replaced by that of stage 1.
    """
    metrics = describe(data.trajectory, data.params)
    new = jax.tree.map(lambda leaf: leaf[:, 1:], (data.trajectory, data.params))
    new_metrics = describe(*new)
    any_old = ~data.trajectory.void[:, 0].all()
    returns = metrics["return"]
    returns = returns.at[0].set(jnp.where(any_old, returns[0], returns[1]))
    counts = {name: new_metrics[name] for name in ("valid_share", "environment_steps", "diverged_episodes")}
    metrics |= counts | {"return": returns, "gain": returns[-1] - returns[0]}
    return metrics if measure is None else joined(measured(measure, new[0]), metrics)
