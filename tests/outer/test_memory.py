"""Recomputing and chunking change memory, not numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.compose import build_parts
from tests import rows, toys

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


@pytest.mark.parametrize(
    ("seeds", "kind"),
    [
        (1, "a ratio"),
        (2, "clipped, with a penalty and credit"),
        rows.thorough(2, "a ratio"),
        rows.thorough(1, "clipped, with a penalty and credit"),
    ],
)
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


@pytest.mark.thorough
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


LIMITED_ROWS = np.array([[3.0, 4.0], [0.3, 0.4], [-6.0, 8.0], [np.nan, 1.0], [0.0, 0.0], [3e38, 3e38]], np.float32)
"""gradients of six tasks: long, short, long, unknown, none, and too long for its norm"""


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("limit", [1.0, 7.0])
def test_no_task_adds_more_to_the_gradient_than_the_limit(chunk, limit):
    """loss_i = gᵢ·θ, so that the gradient of the mean is that of gᵢ min(1, limit / |gᵢ|), done by hand here."""

    def of_task(theta, row):
        return theta @ row, {"first_max": row[0], "below_min": 9 + row[0], "first": row[0]}

    objective = mrl.outer.Memory(task_chunk=chunk).mean_over_tasks(mrl.outer.limited(of_task, limit))
    theta, known = jnp.array([0.5, -2.0]), LIMITED_ROWS[[0, 1, 2, 4]]
    (loss, metrics), _ = jax.jit(objective.value_and_gradient)(theta, known[:3])
    np.testing.assert_allclose(loss, (known[:3] @ np.asarray(theta)).mean(), rtol=1e-6)
    assert metrics["first_max"] == 3
    assert metrics["dropped_share"] == 0
    lengths = np.linalg.norm(known.astype(float), axis=1, keepdims=True)
    (loss, metrics), gradient = jax.jit(objective.value_and_gradient)(theta, LIMITED_ROWS)
    np.testing.assert_allclose(metrics["first"], known[:, 0].sum() / len(LIMITED_ROWS), rtol=1e-6)
    assert (metrics["first_max"], metrics["below_min"]) == (3, 3)  # of those that were not dropped
    np.testing.assert_allclose(metrics["dropped_share"], 2 / 6)
    np.testing.assert_allclose(metrics["limited_share"], (lengths > limit).sum() / 6)
    np.testing.assert_allclose(objective.loss(theta, LIMITED_ROWS)[0], loss, rtol=1e-6)
    np.testing.assert_allclose(loss, (known @ np.asarray(theta)).sum() / len(LIMITED_ROWS), rtol=1e-6)
    by_hand = (known * np.minimum(1, limit / np.maximum(lengths, 1e-9))).sum(0) / len(LIMITED_ROWS)
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-6)


def test_a_limit_that_nothing_reaches_changes_no_number():
    def of_task(theta, row):
        return jnp.sin(theta @ row), {}

    theta, rows = jnp.array([0.5, -2.0]), LIMITED_ROWS[:3]
    memory = mrl.outer.Memory()
    (loss, _), gradient = memory.mean_over_tasks(of_task).value_and_gradient(theta, rows)
    (same, _), limited = memory.mean_over_tasks(mrl.outer.limited(of_task, 100.0)).value_and_gradient(theta, rows)
    assert loss == same
    np.testing.assert_allclose(limited, gradient, rtol=1e-6)
