"""f_θ of policy-gradient steps and of learned rules, for environments that run outside the program."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from metarl_jax.base import Adapter, Online
from metarl_jax.outer.budget import within_budget
from metarl_jax.outer.meta_gradient import Parts
from metarl_jax.policies.likelihood import pad_with_first
from metarl_jax.rollout import rollout, unroll, waiting
from metarl_jax.types import Key, Percept, PyTree, Trajectory, strongly_typed


def _online(
    parts: Parts,
    adapter: Adapter,
    start: Callable[[Key, PyTree], PyTree],
    collect: Callable[[Key, PyTree, PyTree], Trajectory],
    horizon: int,
) -> Online:
    """The online form of an adapter, for stages as returned by ``collect: (key, φ, task) → D``."""
    env, policy, trial = parts.env, parts.policy, parts.trial

    def act(theta: PyTree, fast: PyTree, percept: Percept):
        return fast, policy.apply(adapter.params(theta, fast), percept.observation)

    def learn(theta: PyTree, fast: PyTree, trajectory: Trajectory):
        valid = trajectory.valid
        reward = jnp.where(valid, trajectory.reward, 0)
        padded = pad_with_first(trajectory, valid)
        trajectory = dataclasses.replace(padded, reward=reward, valid=valid, average=parts.average)
        if trial.stage_steps is not None:
            trajectory = within_budget(trajectory, trial.stage_steps)
        advantage, _ = parts.advantage(adapter.params(theta, fast), trajectory)
        return adapter.learn(theta, fast, trajectory, advantage)

    def one_stage(key: Key):
        theta = parts.adapter.init_meta(key)
        return collect(key, adapter.params(theta, start(key, theta)), env.sample_task(key))

    def stage():
        return jax.eval_shape(one_stage, jax.random.key(0))

    return Online(start, act, adapter.params, learn, stage, horizon, env, trial.stage_steps)


def online(parts: Parts) -> Online:
    """For trials of independent episodes: a stage is N complete episodes; steps beyond L are as in `adapt`."""
    trial, adapter = parts.trial, parts.adapter if parts.longer is None else parts.longer

    def collect(key, params, task):
        return rollout(key, parts.env, parts.policy, params, task, trial.episodes, trial.horizon)

    return _online(parts, adapter, lambda key, theta: adapter.init(theta), collect, trial.horizon)


def online_life(parts: Parts) -> Online:
    """For long lives: a stage is N pieces of T steps, and an episode continues in the next piece."""
    trial, born = parts.trial, parts.adapter.born
    assert born is not None

    def collect(key, params, task):
        environments = waiting(key, parts.env, task, trial.episodes)
        return unroll(key, parts.env, parts.policy, params, task, environments, trial.horizon)[1]

    def start(key, theta):
        return strongly_typed(born(key, theta))

    return _online(parts, parts.adapter, start, collect, parts.env.horizon)
