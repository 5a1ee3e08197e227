"""Recomputing and chunking change memory, not numbers."""

import functools

import jax
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.compose import build_parts
from tests import toys

SIZES = {"tasks": 5, "episodes": 3, "adaptation_steps": 2, "policy": {"hidden": (8,)}}
BOTH = {"remat": True, "task_chunk": 1}


@functools.cache
def plain_update(name):
    algorithm = mrl.algorithms.make(name, toys.walk(), **SIZES)
    state = algorithm.init(jax.random.key(0))
    return state, jax.jit(algorithm.update)(jax.random.key(1), state)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("promp", {"remat": True}, marks=pytest.mark.slow),
        pytest.param("promp", {"task_chunk": 2}, marks=pytest.mark.slow),
        ("e-maml", BOTH),
        ("es-maml", {"task_chunk": 9}),
    ],
)
def test_the_same_update_whatever_is_stored(name, options):
    state, expected = plain_update(name)
    lean = mrl.algorithms.make(name, toys.walk(), **SIZES, **options)
    updated = jax.jit(lean.update)(jax.random.key(1), state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), updated, expected)


def temporary_bytes(**options):
    """Working memory of the compiled outer gradient, as XLA plans it; nothing is run."""
    policy = mrl.policies.mlp(toys.walk(), hidden=(100, 100))
    parts = build_parts(
        toys.walk(50), objective=mrl.outer.ratio(), policy=policy, tasks=10, episodes=8, adaptation_steps=5, **options
    )
    theta = jax.eval_shape(parts.adapter.init_meta, jax.random.key(0))
    data = jax.eval_shape(lambda theta: mrl.outer.collect_tasks(jax.random.key(0), parts, theta), theta)
    loss = mrl.outer.meta_objective(parts).loss
    compiled = jax.jit(jax.grad(lambda theta, data: loss(theta, data)[0])).lower(theta, data).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_both_options_save_memory():
    full, remat, chunk, both = (
        temporary_bytes(**options)
        for options in ({}, {"remat": True}, {"task_chunk": 2}, {"remat": True, "task_chunk": 2})
    )
    assert remat < 0.5 * full
    assert chunk < 0.5 * full
    assert both < 0.5 * min(remat, chunk)


def test_a_chunk_must_be_a_size():
    with pytest.raises(ValueError, match="task_chunk is 0"):
        mrl.algorithms.make("maml", toys.walk(), task_chunk=0)
