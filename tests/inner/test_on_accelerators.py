"""What only programs for accelerators use, run on a CPU: QR by blocks of rows, and sums in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.inner.baselines import linear_feature
from metarl_jax.inner.least_squares import BLOCK_ROWS, blockwise_factor, triangular_factor
from metarl_jax.inner.returns import STEPS_AT_ONCE, backward_sum, sum_in_pieces
from tests.data import random_trajectory

ROWS = [7, BLOCK_ROWS, BLOCK_ROWS + 1, 8 * BLOCK_ROWS, 2008, 3001]  # from one block to blocks of blocks


def solve(factor, columns):
    """w of min ‖X w − y‖ from R of [X y]."""
    return jax.scipy.linalg.solve_triangular(factor[:columns, :columns], factor[:columns, columns])


@pytest.mark.parametrize("rows", ROWS)
def test_blockwise_factor_solves_least_squares(rows):
    random = np.random.default_rng(rows)
    x, y = random.normal(size=(rows, 5)), random.normal(size=rows)
    with jax.enable_x64():
        factor = jax.jit(blockwise_factor)(jnp.asarray(np.c_[x, y]))
        assert factor.shape == (6, 6)
        np.testing.assert_allclose(np.tril(factor, -1), 0, atol=1e-12)
        np.testing.assert_allclose(solve(factor, 5), np.linalg.lstsq(x, y)[0], rtol=1e-10, atol=1e-12)
        # Its last number is the norm of what no w explains.
        rest = np.linalg.norm(y - x @ np.linalg.lstsq(x, y)[0])
        np.testing.assert_allclose(np.abs(factor[5, 5]), rest, rtol=1e-10)


def test_blocks_of_many_columns_shrink():
    matrix = np.random.default_rng(0).normal(size=(1000, 100))
    with jax.enable_x64():
        factor = jax.jit(blockwise_factor)(jnp.asarray(matrix))
        assert factor.shape == (100, 100)
        np.testing.assert_allclose(factor.T @ factor, matrix.T @ matrix, atol=1e-10)


def test_blockwise_factor_is_as_stable_as_that_of_the_whole():
    """Columns from 1e-6 to 1e6 that are nearly collinear: RᵀR would have a condition number of 1e28."""
    random = np.random.default_rng(1)
    x = random.normal(size=(2001, 4)) * np.array([1e-6, 1.0, 1e3, 1e6])
    x = np.c_[x, x[:, 1] + 1e-8 * random.normal(size=2001)]
    truth = np.array([1e6, 2.0, -1e-3, 1e-6, 3.0])
    with jax.enable_x64():
        weights = solve(jax.jit(blockwise_factor)(jnp.asarray(np.c_[x, x @ truth])), 5)
        np.testing.assert_allclose(weights, truth, rtol=1e-6)


def test_a_ridge_holds_columns_without_rank():
    """A column of zeros and one that stands twice: the ridge makes the first 0 and shares between the twins."""
    random = np.random.default_rng(2)
    x = random.normal(size=(700, 2))
    x = np.c_[x, x[:, 1], np.zeros(700)]
    stacked = np.c_[np.r_[x, 1e-3 * np.eye(4)], np.r_[x @ [1.0, 2.0, 2.0, 0.0], np.zeros(4)]]
    with jax.enable_x64():
        weights = solve(jax.jit(blockwise_factor)(jnp.asarray(stacked)), 4)
        np.testing.assert_allclose(weights, np.linalg.lstsq(stacked[:, :4], stacked[:, 4])[0], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(weights, [1, 2, 2, 0], atol=1e-6)


def test_every_matrix_of_a_batch_is_its_own():
    batch = np.random.default_rng(3).normal(size=(2, 3, 300, 4))
    with jax.enable_x64():
        factors = np.asarray(jax.jit(jax.vmap(jax.vmap(blockwise_factor)))(jnp.asarray(batch)))
    np.testing.assert_allclose(
        np.einsum("abji,abjk->abik", factors, factors), np.einsum("abji,abjk->abik", batch, batch), rtol=1e-9, atol=1e-9
    )


def test_a_fit_by_blocks_is_the_fit(monkeypatch):
    trajectory = random_trajectory(0, episodes=40, horizon=20)
    expected = linear_feature()(trajectory, 0.95)
    calls = []

    def counted(matrix):
        calls.append(matrix.shape)
        return blockwise_factor(matrix)

    monkeypatch.setattr("metarl_jax.inner.baselines.triangular_factor", counted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), linear_feature()(trajectory, 0.95), expected)
    assert calls == [(40 * 20 + 10, 11)]


def test_a_cpu_decomposes_the_whole_at_once():
    text = jax.jit(jax.vmap(triangular_factor)).lower(jnp.ones((3, 500, 4))).compile().as_text() or ""
    assert "conditional(" not in text
    assert sum("custom-call(" in line and "geqrf" in line for line in text.splitlines()) == 1
    assert f"[3,4,{BLOCK_ROWS},4]" not in text


@pytest.mark.parametrize("horizon", [1, 7, STEPS_AT_ONCE, 2 * STEPS_AT_ONCE + 3])
def test_a_sum_in_pieces_is_the_sum(horizon):
    random = np.random.default_rng(horizon)
    terms, factors = random.normal(size=(2, 4, horizon))
    expected, following = np.zeros((4, horizon)), np.zeros(4)
    for t in reversed(range(horizon)):
        expected[:, t] = following = terms[:, t] + factors[:, t] * following
    with jax.enable_x64():
        for function in (backward_sum, lambda *given: sum_in_pieces(*given, STEPS_AT_ONCE)):
            found = jax.jit(function)(jnp.asarray(terms), jnp.asarray(factors))
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
