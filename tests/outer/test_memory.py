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


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 9, None])
def test_a_chunk_is_the_most_tasks_that_divide_a_share(chunk, monkeypatch):
    memory = mrl.outer.Memory(task_chunk=chunk, rows=600)
    expected = {1: 1, 2: 2, 3: 3, 5: 3, 9: 6}
    assert memory._chunk(6) == expected.get(chunk, 3)  # of 2048 rows
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert memory._chunk(6) == expected.get(chunk, 6)


OBJECTIVES = {
    "a ratio": mrl.outer.ratio(),
    "clipped, with a penalty and credit": mrl.outer.add(
        mrl.outer.clipped(), mrl.outer.inner_kl(0.5), mrl.outer.credit(0.5)
    ),
}


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("seeds", [1, 2])
def test_the_gradient_chunk_by_chunk_is_that_of_the_loss(kind, seeds):
    """Its extremes and means over tasks too, and under a vmap over seeds."""
    with jax.enable_x64(True):
        sizes = {"tasks": 6, "episodes": 3, "policy": {"hidden": (8,)}}
        parts = build_parts(toys.walk(), objective=OBJECTIVES[kind], task_chunk=2, **sizes)
        objective = mrl.outer.meta_objective(parts)
        key = jax.random.key(1) if seeds == 1 else jax.random.split(jax.random.key(1), seeds)

        def both(key):
            theta = parts.adapter.init_meta(key)
            data = mrl.outer.collect_tasks(key, parts, theta)
            theta = jax.tree.map(lambda leaf: leaf + 0.05, theta)
            whole = jax.value_and_grad(objective.loss, has_aux=True)(theta, data)
            return whole, objective.value_and_gradient(theta, data)

        expected, found = jax.jit(both if seeds == 1 else jax.vmap(both))(key)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected)


def temporary_bytes(**options):
    """Working memory of the compiled outer gradient, as XLA plans it; nothing is run."""
    policy = mrl.policies.mlp(toys.walk(), hidden=(100, 100))
    parts = build_parts(
        toys.walk(50), objective=mrl.outer.ratio(), policy=policy, tasks=10, episodes=8, adaptation_steps=5, **options
    )
    theta = jax.eval_shape(parts.adapter.init_meta, jax.random.key(0))
    data = jax.eval_shape(lambda theta: mrl.outer.collect_tasks(jax.random.key(0), parts, theta), theta)
    compiled = jax.jit(mrl.outer.meta_objective(parts).value_and_gradient).lower(theta, data).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_both_options_save_memory():
    full, remat, chunk, both = (
        temporary_bytes(**options)
        for options in (
            {"task_chunk": 10},
            {"task_chunk": 10, "remat": True},
            {"task_chunk": 2},
            {"task_chunk": 2, "remat": True},
        )
    )
    assert remat < 0.5 * full
    assert chunk < 0.5 * full
    assert both < 0.5 * min(remat, chunk)


def test_a_chunk_must_be_a_size():
    with pytest.raises(ValueError, match="task_chunk is 0"):
        mrl.algorithms.make("maml", toys.walk(), task_chunk=0)
