"""Fixtures that several test folders share."""

import functools
import os
from typing import Any, NamedTuple

# Most of the tests' time is compilation of programs that run for milliseconds; without LLVM's optimisations it halves.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax.envs as envs
from metarl_jax.base import TaskEnv

LANES, STEPS = 4, 12
RANDOM, EXTREME = slice(0, 2), slice(2, 4)


class Recording(NamedTuple):
    """Episodes of one environment under fixed actions, run by ONE compiled program."""

    env: TaskEnv
    keys: jax.Array  # [LANES]
    tasks: Any  # [LANES, ...]
    actions: jax.Array  # [LANES, STEPS, ...]; lanes RANDOM, then lanes EXTREME
    run: Any  # (keys, tasks, actions) → states [LANES, STEPS + 1, ...], that of the reset first
    states: Any  # run(keys, tasks, actions)


def record(env: TaskEnv, seed: int = 0, lanes: int = LANES, steps: int = STEPS) -> Recording:
    """Random actions in the first half of the lanes, extreme ones in the second."""

    def episode(key, task, actions):
        start = env.reset(key, task)

        def step(state, action):
            state = env.step(task, state, action)
            return state, state

        following = jax.lax.scan(step, start, actions)[1]
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, following)

    keys = jax.random.split(jax.random.key(seed), lanes)
    tasks = jax.vmap(env.sample_task)(jax.random.split(jax.random.key(seed + 1), lanes))
    random = np.random.default_rng(seed)
    half = lanes // 2
    if env.discrete:
        actions = random.integers(env.action_size, size=(lanes, steps))
        actions[half:] = (env.action_size - 1) * (np.arange(half) % 2)[:, None]
    else:
        actions = random.normal(size=(lanes, steps, env.action_size)).astype(np.float32)
        actions[half:] = 1e6 * np.where(actions[half:] > 0, 1, -1)
    run = jax.jit(jax.vmap(episode))
    actions = jnp.asarray(actions)
    return Recording(env, keys, tasks, actions, run, run(keys, tasks, actions))


@pytest.fixture(scope="session")
def recording():
    """``name → Recording``; a Brax program takes tens of seconds to compile, so every test of a session shares it."""
    return functools.cache(lambda name: record(envs.make(name)))
