"""Level 2: parts that see one task become a meta-gradient over B tasks.

Two phases. `collect` runs the trial, physics included, without gradients. `replay` runs the same adapter again on the
fixed data as a function of θ, and that is what the outer loss differentiates: nothing flows through the environment.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.base import Adapter, Objective, Policy, ScaledEstimator, TaskEnv, Trial
from metarl_jax.outer.budget import within_budget
from metarl_jax.outer.memory import Memory
from metarl_jax.policies.likelihood import distributions
from metarl_jax.rollout import rollout
from metarl_jax.types import Key, Path, PyTree, Stage, Trajectory


class Parts(NamedTuple):
    """What an algorithm of the family is a product of."""

    env: TaskEnv
    policy: Policy
    adapter: Adapter
    advantage: ScaledEstimator
    objective: Objective
    trial: Trial
    memory: Memory = Memory()
    refit: Callable[[PyTree, Trajectory], PyTree] | None = None
    """``(θ, trajectories [B·S·N, T]) → θ``: what is fitted to a meta-iteration's data instead of learned by gradient"""
    average: str = "horizon"
    """what losses divide the sums over a stage by, see `metarl_jax.types.Trajectory.mean`"""
    longer: Adapter | None = None
    """the adapter of `adapt` with more inner steps than training takes; None: `adapter`"""
    credit: str = "return"
    """what episodes are credited with, a name of `CREDITS`"""
    multi_step_iterations: int | None = None
    """meta-iterations over which the last stage becomes the only one that counts; None: all counted ones always do"""
    discount: float = 1.0
    """γ of J(θ). Unless the advantages hold γᵗ it is 1, whatever their own γ, which then is a way to estimate"""


def run_trial(
    key: Key, parts: Parts, theta: PyTree, task: PyTree, kept: Callable[[Stage], PyTree]
) -> tuple[PyTree, PyTree]:
    """One trial in ONE task: roll out, learn, roll out, … Physics stands once in the program, in the scan over stages.

    Args:
        key: stage s draws from ``fold_in(key, s)``.
        parts: the algorithm's.
        theta: θ.
        task: M.
        kept: what is kept of a stage. Its credit is 0, since it takes other tasks to know it.

    Returns:
        The fast parameters after the last inner step, and what was kept, leaves [S, ...].
    """
    env, policy, adapter, trial = parts.env, parts.policy, parts.adapter, parts.trial

    def stage(fast, index):
        params = adapter.params(theta, fast)
        stage_key = jax.random.fold_in(key, index)
        trajectory = rollout(stage_key, env, policy, params, task, trial.episodes, trial.horizon)
        trajectory = dataclasses.replace(trajectory, average=parts.average)
        if trial.stage_steps is not None:
            trajectory = within_budget(trajectory, trial.stage_steps)
        with jax.named_scope("adapt"):
            advantage, scale = parts.advantage(params, trajectory)
            # The last stage is there to be counted; no step follows it.
            fast = jax.lax.cond(
                index < trial.adaptation_steps,
                lambda: adapter.learn(theta, fast, trajectory, advantage),
                lambda: fast,
            )
        credit = jnp.zeros(trial.episodes, advantage.dtype)
        data = Stage(trajectory=trajectory, advantage=advantage, params=params, scale=scale, credit=credit)
        return fast, kept(data)

    return jax.lax.scan(stage, adapter.init(theta), jnp.arange(trial.stages))


def collect(key: Key, parts: Parts, theta: PyTree, task: PyTree) -> Stage:
    """All of one trial in ONE task, for the replay; leaves [S, N, T, ...]. See `run_trial`."""
    return run_trial(key, parts, theta, task, lambda stage: stage)[1]


def replay(parts: Parts, theta: PyTree, data: Stage, start: PyTree = None) -> Path:
    """The adaptation path of ONE task as a differentiable function of θ at fixed data.

    Args:
        parts: the algorithm's.
        theta: θ.
        data: leaves [S, ...], from `collect`.
        start: what the adapter passed to stage 0, fixed data too; None means where θ starts.

    Returns:
        φ_0 … φ_L, leaves [S, ...], beside the data.
    """
    adapter = parts.adapter

    def step(fast, stage):
        params = adapter.params(theta, fast)
        if adapter.learn_seeing is None:
            return adapter.learn(theta, fast, stage.trajectory, stage.advantage), (params, None)
        fast, seen = adapter.learn_seeing(theta, fast, stage.trajectory, stage.advantage)
        return fast, (params, seen)

    learned_from = jax.tree.map(lambda leaf: leaf[:-1], data)
    start = adapter.init(theta) if start is None else start
    fast, path = jax.lax.scan(parts.memory.checkpoint(step), start, learned_from)
    params, seen = adapter.params(theta, fast), None
    if path[1] is not None:
        seen = distributions(parts.policy, params, jax.tree.map(lambda leaf: leaf[-1], data.trajectory))
    params, seen = jax.tree.map(lambda before, last: jnp.concatenate([before, last[None]]), path, (params, seen))
    return Path(params=params, data=data, burn_in=parts.trial.first_counted, seen=seen)


def trial_of(key: Key, index: jax.Array, parts: Parts, theta: PyTree) -> Stage:
    """The trial of task number `index` of a meta-iteration; leaves [S, N, T, ...]."""
    task_key, data_key = jax.random.split(jax.random.fold_in(key, index))
    return collect(data_key, parts, theta, parts.env.sample_task(task_key))
