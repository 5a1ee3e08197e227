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


MEANS = {  # algorithm, options: every kind of loss that is a mean over tasks
    "a ratio": ("maml", {}),
    "clipped, with a penalty": ("promp", {}),
    "credit": ("e-maml", {}),
    "learned rates": ("meta-sgd", {}),
    "a critic": ("tmaml", {}),
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 9, None])
def test_a_chunk_is_the_most_tasks_that_divide_a_share(chunk, monkeypatch):
    memory = mrl.outer.Memory(task_chunk=chunk, rows=600)
    expected = {1: 1, 2: 2, 3: 3, 5: 3, 9: 6}
    assert memory._chunk(6) == expected.get(chunk, 3)  # of 2048 rows
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert memory._chunk(6) == expected.get(chunk, 6)


@pytest.mark.parametrize("kind", MEANS)
def test_the_gradient_chunk_by_chunk_is_that_of_the_loss(kind):
    name, options = MEANS[kind]
    with jax.enable_x64(True):
        algorithm = functools.partial(mrl.algorithms.make, name, toys.walk(), **SIZES | {"tasks": 6}, **options)
        theta = algorithm().init(jax.random.key(0)).params
        whole, parted = (algorithm(task_chunk=chunk).gradient for chunk in (6, 2))
        key = jax.random.key(1)
        expected, found = (jax.jit(gradient)(key, theta) for gradient in (whole, parted))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), found, expected)
        keys = jax.random.split(key, 2)
        first = jax.tree.map(lambda leaf: leaf[0], jax.jit(jax.vmap(parted, (0, None)))(keys, theta)[0])
        one = jax.jit(whole)(keys[0], theta)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), first, one)


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
