"""Lives: agents that go on learning across meta-updates, each in its own task, and windows of them to learn θ from.

A window is a trial that does not begin at the beginning: stage 0 is what the agent saw last and has not learned from
yet, and L updates follow. `metarl_jax.outer.replay` from the agent's state at the window's start makes it a function of
θ; what lies before the window is data, so backpropagation is truncated there.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.base import Adapter
from metarl_jax.outer.meta_gradient import Parts
from metarl_jax.rollout import unroll, waiting
from metarl_jax.types import Key, PyTree, Running, Stage, strongly_typed


@struct.dataclass
class Life:
    """An agent in the middle of its life in ONE task."""

    task: PyTree
    """M"""
    fast: PyTree
    """what the adapter passes on: φ, the inner optimiser's state"""
    environments: Running
    """N environments, where they stand; leaves [N, ...]"""
    newest: Stage
    """collected with φ and not yet learned from, leaves [N, T, ...]; void in a newborn"""
    age: jax.Array
    """[] int32: updates since birth"""
    end: jax.Array
    """[] int32: the age at which the life ends"""


@struct.dataclass
class Window:
    """L updates of one life, fixed once lived: what the replay and the outer loss read."""

    start: PyTree
    """what the adapter had when the window began"""
    stages: Stage
    """leaves [S, N, T, ...]; stage 0 was collected before the window"""


def skipping_void(adapter: Adapter) -> Adapter:
    """The same rule, which learns nothing from a stage without a valid step, as a newborn's first one is."""

    def learn(theta, fast, trajectory, advantage):
        # Void data are finite, so what is not chosen cannot poison the gradient.
        learned = adapter.learn(theta, fast, trajectory, advantage)
        return jax.tree.map(lambda new, old: jnp.where(trajectory.valid.any(), new, old), learned, fast)

    return adapter._replace(learn=learn, learn_seeing=None)


def _step(key: Key, parts: Parts, theta: PyTree, task: PyTree, fast: PyTree, environments: Running):
    """The next stage of a life, with φ as it is."""
    trial, params = parts.trial, parts.adapter.params(theta, fast)
    environments, trajectory = unroll(key, parts.env, parts.policy, params, task, environments, trial.horizon)
    trajectory = dataclasses.replace(trajectory, average=parts.average)
    advantage, scale = parts.advantage(params, trajectory)
    credit = jnp.zeros(trial.episodes, advantage.dtype)
    stage = Stage(trajectory=trajectory, advantage=advantage, params=params, scale=scale, credit=credit)
    return environments, strongly_typed(stage)


def born(key: Key, parts: Parts, theta: PyTree, task: PyTree, end: jax.Array | int) -> Life:
    """A newborn agent in ONE task: fresh φ and environments, nothing seen, age 0.

    Args:
        key: of φ and of the environments.
        parts: the algorithm's; its adapter has `born`.
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
    key: Key, parts: Parts, theta: PyTree, life: Life, updates: int, kept: Callable[[Stage], PyTree]
) -> tuple[Life, PyTree]:
    """`updates` times: learn from the newest stage, then collect the next. Physics stands once in the program.

    Args:
        key: the stage after update u draws from ``fold_in(key, u)``.
        parts: the algorithm's.
        theta: θ.
        life: of ONE agent.
        updates: of φ.
        kept: what is kept of a stage, leaves [N, T, ...].

    Returns:
        The agent, older by `updates`, and what was kept of the new stages, leaves [updates, ...].
    """

    def update(carry, index):
        fast, environments, newest = carry
        fast = parts.adapter.learn(theta, fast, newest.trajectory, newest.advantage)
        environments, newest = _step(jax.random.fold_in(key, index), parts, theta, life.task, fast, environments)
        return (fast, environments, newest), kept(newest)

    carry = (life.fast, life.environments, life.newest)
    (fast, environments, newest), stages = jax.lax.scan(update, carry, jnp.arange(updates))
    return Life(life.task, fast, environments, newest, life.age + updates, life.end), stages


def forgotten(window: Window, start: PyTree) -> Window:
    """A window of the same shape in which nothing was seen: all stages are void, so that φ stays at `start`."""
    return Window(start, jax.tree.map(jnp.zeros_like, window.stages))


def window(key: Key, parts: Parts, theta: PyTree, life: Life) -> tuple[Life, Window]:
    """The next L updates of one agent; see `live`."""
    after, stages = live(key, parts, theta, life, parts.trial.adaptation_steps, lambda stage: stage)
    stages = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), life.newest, stages)
    return after, Window(life.fast, stages)
