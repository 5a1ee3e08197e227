"""One trial in ONE task: data collection, and its replay as a differentiable function of θ.

There are two phases. `collect` runs the trial, including the physics, without gradients. `replay` runs the same adapter
again on the fixed data as a function of θ, which the outer loss differentiates. No gradient flows through the
environment. `metarl_jax.outer.tasks` maps both over B tasks.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.base import Adapter, Objective, Policy, ScaledEstimator, TaskEnv, Trial
from metarl_jax.curriculum import task_of
from metarl_jax.outer.budget import within_budget
from metarl_jax.outer.memory import Memory
from metarl_jax.policies.likelihood import distributions
from metarl_jax.rollout import rollout
from metarl_jax.types import Key, Number, Path, PyTree, Stage, Trajectory

Play = Callable[[Policy], Trajectory]
"""The episodes of a stage once more, from the same starts and draws, by another policy with the same φ."""


class Parts(NamedTuple):
    """The components of a gradient-based algorithm."""

    env: TaskEnv
    policy: Policy
    adapter: Adapter
    advantage: ScaledEstimator
    objective: Objective
    trial: Trial
    memory: Memory = Memory()
    refit: Callable[[PyTree, Trajectory], PyTree] | None = None
    """``(θ, trajectories [B·S·N, T]) → θ``: fit to a meta-iteration's data, for parameters not learned by gradient"""
    average: str = "horizon"
    """divisor of the sums over a stage in losses, see `metarl_jax.types.Trajectory.mean`"""
    longer: Adapter | None = None
    """the adapter used by `adapt` for more inner steps than in training; None: `adapter`"""
    credit: str = "return"
    """how episodes are credited for later stages, a name of `metarl_jax.outer.CREDITS`"""
    multi_step_iterations: int | None = None
    """meta-iterations until only the last stage counts; None: all counted stages always count"""
    discount: Number = 1.0
    """γ of J(θ): 1 unless the advantages include γᵗ; the γ of the advantages is then only part of the estimator"""


def run_trial(
    key: Key, parts: Parts, theta: PyTree, task: PyTree, record: Callable[[Stage, Play], PyTree]
) -> tuple[PyTree, PyTree]:
    """One trial in ONE task: roll out, learn, roll out, … The scan over stages compiles the physics once.

    Args:
        key: stage s draws from ``fold_in(key, s)``.
        parts: components of the algorithm.
        theta: θ.
        task: M.
        record: ``(stage, play) → the record to keep of it``. The stage's credit is 0, because it depends on the other
            tasks.

    Returns:
        The fast parameters after the last inner step, and the records, leaves [S, ...].
    """
    env, policy, adapter, trial = parts.env, parts.policy, parts.adapter, parts.trial

    def stage(fast, index):
        params = adapter.params(theta, fast)
        stage_key = jax.random.fold_in(key, index)

        def play(policy):
            return rollout(stage_key, env, policy, params, task, trial.episodes, trial.horizon)

        trajectory = play(policy)
        trajectory = dataclasses.replace(trajectory, average=parts.average)
        if trial.stage_steps is not None:
            trajectory = within_budget(trajectory, trial.stage_steps)
        with jax.named_scope("adapt"):
            advantage, scale = parts.advantage(params, trajectory)
            # No inner step follows the last stage.
            fast = jax.lax.cond(
                index < trial.adaptation_steps,
                lambda: adapter.learn(theta, fast, trajectory, advantage),
                lambda: fast,
            )
        credit = jnp.zeros(trial.episodes, advantage.dtype)
        data = Stage(trajectory=trajectory, advantage=advantage, params=params, scale=scale, credit=credit)
        return fast, record(data, play)

    return jax.lax.scan(stage, adapter.init(theta), jnp.arange(trial.stages))


def collect(key: Key, parts: Parts, theta: PyTree, task: PyTree) -> Stage:
    """The data of one trial in ONE task, for the replay; leaves [S, N, T, ...]. See `run_trial`."""
    return run_trial(key, parts, theta, task, lambda stage, play: stage)[1]


def replay(parts: Parts, theta: PyTree, data: Stage, start: PyTree = None) -> Path:
    """The adaptation path of ONE task as a differentiable function of θ at fixed data.

    Args:
        parts: components of the algorithm.
        theta: θ.
        data: leaves [S, ...], from `collect`.
        start: state of the adapter at stage 0, fixed data too; None means ``adapter.init(θ)``.

    Returns:
        φ_0 … φ_L, leaves [S, ...], and the data.
    """
    adapter = parts.adapter

    def step(fast, stage):
        params = adapter.params(theta, fast)
        if adapter.learn_seeing is None:
            return adapter.learn(theta, fast, stage.trajectory, stage.advantage), (params, None)
        fast, pi = adapter.learn_seeing(theta, fast, stage.trajectory, stage.advantage)
        return fast, (params, pi)

    learned_from = jax.tree.map(lambda leaf: leaf[:-1], data)
    start = adapter.init(theta) if start is None else start
    fast, path = jax.lax.scan(parts.memory.checkpoint(step), start, learned_from)
    params, pi = adapter.params(theta, fast), None
    if path[1] is not None:
        pi = distributions(parts.policy, params, jax.tree.map(lambda leaf: leaf[-1], data.trajectory))
    params, pi = jax.tree.map(lambda before, last: jnp.concatenate([before, last[None]]), path, (params, pi))
    return Path(params=params, data=data, burn_in=parts.trial.first_counted, seen=pi)


def trial_of(key: Key, index: jax.Array, parts: Parts, theta: PyTree) -> Stage:
    """The trial in task `index` of a meta-iteration; leaves [S, N, T, ...]."""
    task, data_key = task_of(key, index, parts.env, parts.trial.tasks)
    return collect(data_key, parts, theta, task)
