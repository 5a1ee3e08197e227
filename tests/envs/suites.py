"""What the tests of gymnax and of the physics suites share."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/suites.md").read_text("utf-8"), re.DOTALL
)
KEY = jax.random.key(0)


def from_docs(mark, lines=15):
    """The names that the one block with this mark defines, in a few lines."""
    (block,) = (block for block in BLOCKS if mark in block)
    assert len(block.splitlines()) <= lines
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def types_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


def assert_one_type(env):
    task = jax.eval_shape(env.sample_task, KEY)
    action = jnp.zeros((), int) if env.discrete else jnp.zeros(env.action_size)
    start = jax.eval_shape(env.reset, KEY, task)
    assert types_of(start) == types_of(jax.eval_shape(env.step, task, start, action))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((start, task)))
    assert types_of(start.observation) == ((env.observation_size,), jnp.zeros(0).dtype, False)
    assert start.terminated.dtype == start.truncated.dtype == jnp.bool_


def play(reset, step, key, task, actions):
    """States of one episode, the one of the reset first: leaves [T + 1, ...], or [T + 1, B, ...] of a batch."""
    states = [reset(key, task)]
    for action in actions:
        states.append(step(task, states[-1], action))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def play_two_tasks(env, actions):
    """Keys [2], tasks [2] and states [2, T + 1] of one episode each; both tasks run through one compiled step."""
    keys = jax.random.split(jax.random.key(5))
    tasks = jax.vmap(env.sample_task)(keys)
    episodes = [
        play(env.reset, env.step, key, jax.tree.map(lambda leaf, i=i: leaf[i], tasks), actions)
        for i, key in enumerate(keys)
    ]
    assert env.step._cache_size() == 1
    return keys, tasks, jax.tree.map(lambda *leaves: jnp.stack(leaves), *episodes)


def assert_jit_and_vmap_agree(env, actions):
    """A jitted batch of tasks gives what one task at a time gives."""
    keys, tasks, states = play_two_tasks(env, actions)
    reset, step = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.step, (0, 0, None)))
    together = play(reset, step, keys, tasks, actions)
    for field in ("observation", "reward", "terminated", "truncated"):
        batch = jnp.moveaxis(getattr(together, field), 1, 0)
        np.testing.assert_allclose(batch, getattr(states, field), rtol=1e-5, atol=1e-5)
    return keys, tasks, states


def assert_maml_updates(env):
    algorithm = mrl.algorithms.make("maml", env, tasks=2, episodes=2, horizon=4)
    state, metrics = jax.jit(algorithm.update)(KEY, algorithm.init(KEY))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics["return"])))


def assert_refused(call, parts):
    with pytest.raises(ValueError, match=r"\S") as error:
        call()
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
