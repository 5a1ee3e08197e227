"""Lives: agents that continue to learn across meta-updates, each in its own task; θ is learned from windows of lives.

A window is L consecutive updates from the middle of a lifetime. Stage 0 was collected by the previous window and has
not been learned from. `metarl_jax.outer.replay` from the agent's state at the start of the window makes the window a
function of θ. Earlier updates are data, so backpropagation is truncated at the start of the window.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.base import Adapter
from metarl_jax.outer.meta_gradient import Parts, Play
from metarl_jax.rollout import unroll, waiting
from metarl_jax.types import Key, PyTree, Running, Stage, strongly_typed


@struct.dataclass
class Life:
    """The state of an agent during its life in ONE task."""

    task: PyTree
    """M"""
    fast: PyTree
    """state of the adapter: φ and the inner optimiser's state"""
    environments: Running
    """N environments in their current state; leaves [N, ...]"""
    newest: Stage
    """the stage collected with φ, not yet learned from, leaves [N, T, ...]; void for a new agent"""
    age: jax.Array
    """[] int32: updates since birth"""
    end: jax.Array
    """[] int32: the age at which the life ends"""


@struct.dataclass
class Window:
    """Data of L updates of one life, read by the replay and the outer loss."""

    start: PyTree
    """state of the adapter at the start of the window"""
    stages: Stage
    """leaves [S, N, T, ...]; stage 0 was collected before the window"""


def skipping_void(adapter: Adapter) -> Adapter:
    """Wraps an adapter so that a stage without valid steps, such as a new agent's first, leaves its state unchanged."""

    def learn(theta, fast, trajectory, advantage):
        # Void data are finite, so the unselected branch cannot make the gradient NaN.
        updated = adapter.learn(theta, fast, trajectory, advantage)
        return jax.tree.map(lambda new, old: jnp.where(trajectory.valid.any(), new, old), updated, fast)

    return adapter._replace(learn=learn, learn_seeing=None)


def _step(key: Key, parts: Parts, theta: PyTree, task: PyTree, fast: PyTree, environments: Running):
    """Collects the next stage of a life with the current φ."""
    trial, params = parts.trial, parts.adapter.params(theta, fast)
    environments, trajectory = unroll(key, parts.env, parts.policy, params, task, environments, trial.horizon)
    trajectory = dataclasses.replace(trajectory, average=parts.average)
    advantage, scale = parts.advantage(params, trajectory)
    credit = jnp.zeros(trial.episodes, advantage.dtype)
    stage = Stage(trajectory=trajectory, advantage=advantage, params=params, scale=scale, credit=credit)
    return environments, strongly_typed(stage)


def born(key: Key, parts: Parts, theta: PyTree, task: PyTree, end: jax.Array | int) -> Life:
    """A new agent in ONE task: new φ and environments, no data, age 0.

    Args:
        key: for φ and the environments.
        parts: components of the algorithm; the adapter has `born`.
        theta: θ.
        task: M.
        end: [] int32, the age at which its life ends.
    """
    fast_key, env_key = jax.random.split(key)
    start = parts.adapter.born
    assert start is not None
    fast = strongly_typed(start(fast_key, theta))
    environments = waiting(env_key, parts.env, task, parts.trial.episodes)
    stage = jax.eval_shape(lambda: _step(key, parts, theta, task, fast, environments)[1])
    newest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), stage)
    newest = newest.replace(params=parts.adapter.params(theta, fast))
    return Life(task, fast, environments, newest, jnp.zeros((), jnp.int32), jnp.asarray(end, jnp.int32))


def live(
    key: Key, parts: Parts, theta: PyTree, life: Life, updates: int, record: Callable[[Stage, Play], PyTree]
) -> tuple[Life, PyTree]:
    """Repeats `updates` times: learn from the newest stage, then collect the next. The scan compiles the physics once.

    Args:
        key: the stage after update u draws from ``fold_in(key, u)``.
        parts: components of the algorithm.
        theta: θ.
        life: ONE agent.
        updates: number of updates of φ.
        record: ``(stage with leaves [N, T, ...], play) → the record to keep of it``; `play` goes on from the same
            environments, whose states after it are forgotten.

    Returns:
        The agent after `updates` more updates, and the records of the new stages, leaves [updates, ...].
    """

    def update(carry, index):
        fast, environments, newest = carry
        fast = parts.adapter.learn(theta, fast, newest.trajectory, newest.advantage)
        stage_key = jax.random.fold_in(key, index)
        after, newest = _step(stage_key, parts, theta, life.task, fast, environments)

        def play(policy):
            how = parts.adapter.params(theta, fast), life.task, environments, parts.trial.horizon
            return unroll(stage_key, parts.env, policy, *how)[1]

        return (fast, after, newest), record(newest, play)

    carry = (life.fast, life.environments, life.newest)
    (fast, environments, newest), stages = jax.lax.scan(update, carry, jnp.arange(updates))
    return Life(life.task, fast, environments, newest, life.age + updates, life.end), stages


def blank_window(window: Window, start: PyTree) -> Window:
    """A window of the same shape without data: all stages are void, so φ stays at `start`."""
    return Window(start, jax.tree.map(jnp.zeros_like, window.stages))


def window(key: Key, parts: Parts, theta: PyTree, life: Life) -> tuple[Life, Window]:
    """The next L updates of one agent; see `live`."""
    after, stages = live(key, parts, theta, life, parts.trial.adaptation_steps, lambda stage, play: stage)
    stages = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), life.newest, stages)
    return after, Window(life.fast, stages)
