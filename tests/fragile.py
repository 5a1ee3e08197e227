"""An environment whose chosen episodes break through its own dynamics, and what tests of them share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import metarl_jax as mrl
from tests import toys

HORIZON, NEVER, AT_RESET = 6, 99, -1


@struct.dataclass
class Task:
    goal: jax.Array  # [1]
    keys: jax.Array  # uint32 [K, 2], data of the reset keys of the episodes that break
    at: jax.Array  # [K] the step that breaks each
    rate: jax.Array  # of all other episodes, those that break in step 1
    reward: jax.Array  # whether a broken step has an infinite reward rather than a NaN position


@struct.dataclass
class State(toys.State):
    time: jax.Array
    length: jax.Array
    breaks: jax.Array


def fragile(rates=(0.0,), listed=1):
    """A walk of 3 steps or more, to termination or the horizon, unless it breaks; a task draws one of the rates.

    A task lists K = `listed` episodes that break.
    """

    def sample_task(key):
        goal, rate = jax.random.normal(key, (1,)), jnp.array(rates)[jax.random.randint(key, (), 0, len(rates))]
        return Task(goal, jnp.zeros((listed, 2), jnp.uint32), jnp.full(listed, NEVER), rate, jnp.array(False))

    def reset(key, task):
        chosen = (task.keys == jax.random.key_data(key)).all(-1)
        start, length, luck = jax.random.split(key, 3)
        at_random = jnp.where(jax.random.uniform(luck) < task.rate, 1, NEVER)
        breaks = jnp.minimum(jnp.where(chosen, task.at, NEVER).min(), at_random)
        position = jax.random.normal(start, (1,)) + jnp.where(breaks == AT_RESET, jnp.nan, 0)
        return State(position, 0.0, False, False, 0, jax.random.randint(length, (), 3, HORIZON + 3), breaks)

    def step(task, state, action):
        broken = state.time == state.breaks
        position = state.observation + action
        reward = jnp.where(broken & task.reward, jnp.inf, -((position - task.goal) ** 2).sum())
        position = jnp.where(broken & ~task.reward, jnp.nan, position)
        time = state.time + 1
        return State(position, reward, time == state.length, False, time, state.length, state.breaks)

    return mrl.TaskEnv(
        sample_task=sample_task, reset=reset, step=step, observation_size=1, action_size=1, horizon=HORIZON
    )


def reset_keys(key, episodes):
    """Key data [N, 2] of the resets that `rollout` draws from `key`."""
    per_episode = jax.vmap(lambda n: jax.random.split(jax.random.fold_in(key, n))[0])
    return jax.random.key_data(per_episode(jnp.arange(episodes)))


def all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def take(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)
