"""Least squares by QR: one fit, and the fits that leave out one episode each.

The normal equations square the condition number, which float32 does not bear; R of a QR decomposition does not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

BLOCK_ROWS = 128
"""Rows of a block of `blockwise_factor`, more where the columns are many."""


def triangular_factor(matrix: Float[Array, "M F"]) -> Float[Array, "K F"]:
    """R of a QR decomposition, K = min(M, F) rows; whatever the signs of its rows are, R x = Qᵀ y has one solution.

    A CPU takes it of the whole matrix, by LAPACK, one matrix after the other; where several devices share a batch, by
    `reflected_factor`, which XLA divides among them. A GPU has a kernel for many small decompositions at once; tall
    ones it does one after the other, so there it is `blockwise_factor`.
    """
    on_cpu = reflected_factor if jax.sharding.get_abstract_mesh().size > 1 else _in_turn
    return jax.lax.platform_dependent(matrix, cpu=on_cpu, default=blockwise_factor)


def _whole_factor(matrix: Float[Array, "M F"]) -> Float[Array, "K F"]:
    return jnp.linalg.qr(matrix, mode="r")


# In jaxlib 0.10 LAPACK of a batch is shared out among the threads of the pool that it runs on, and waits for them: two
# such calls at once, of two devices or of two programs, leave a pool of two threads none to work with, and both wait
# for ever. LAPACK of one matrix shares nothing out.
_in_turn = jax.custom_batching.sequential_vmap(_whole_factor)


def reflected_factor(matrix: Float[Array, "M F"]) -> Float[Array, "K F"]:
    """R by Householder's reflections, a loop over columns in operations of XLA's own, without LAPACK."""
    rows = jnp.arange(len(matrix))

    def reflect(column, left):
        x = jnp.where(rows >= column, left[:, column], 0)
        length = jnp.linalg.norm(x)
        # Away from the axis, so that nothing cancels.
        normal = x.at[column].add(jnp.where(x[column] < 0, -length, length))
        square = normal @ normal
        return left - jnp.where(square > 0, 2 / jnp.where(square > 0, square, 1), 0) * jnp.outer(normal, normal @ left)

    rank = min(matrix.shape)
    return jnp.triu(jax.lax.fori_loop(0, rank, reflect, matrix)[:rank])


def solved(upper: Float[Array, "F F"], target: Float[Array, " F"]) -> Float[Array, " F"]:
    """x with R x = y for an upper triangular R; on a CPU without LAPACK, of which a batch can wait for ever."""
    return jax.lax.platform_dependent(upper, target, cpu=back_substituted, default=jax.scipy.linalg.solve_triangular)


def back_substituted(upper: Float[Array, "F F"], target: Float[Array, " F"]) -> Float[Array, " F"]:
    """x_i = (y_i − Σ_{j>i} R_ij x_j) / R_ii, from the last row to the first."""

    def row(step, x):  # what is not known yet is 0
        i = len(target) - 1 - step
        return x.at[i].set((target[i] - upper[i] @ x) / upper[i, i])

    return jax.lax.fori_loop(0, len(target), row, jnp.zeros_like(target))


def blockwise_factor(matrix: Float[Array, "M F"]) -> Float[Array, "K F"]:
    """R by blocks of rows: [A; B] = [Q_A R_A; Q_B R_B] has the R of [R_A; R_B].

    Every step is a multiplication by an orthogonal matrix, so it is as stable as the decomposition of the whole.
    Demmel et al. (2012, arXiv:0808.2664).
    """
    rows, columns = matrix.shape
    block = max(BLOCK_ROWS, 4 * columns)  # at most a quarter of the rows is left
    if rows <= block:
        return _whole_factor(matrix)
    blocks = -(-rows // block)
    padded = jnp.pad(matrix, ((0, blocks * block - rows), (0, 0)))  # rows of zeros change nothing
    factors = jax.vmap(_whole_factor)(padded.reshape(blocks, block, columns))
    return blockwise_factor(factors.reshape(-1, columns))


class Summary(NamedTuple):
    """What a fit must know of some episodes: two of them merge into that of all their steps."""

    count: Float[Array, ""]
    """steps"""
    mean: Float[Array, " F"]
    """of the features"""
    square: Float[Array, " F"]
    """Σ (z − mean)²"""
    factor: Float[Array, "K K"]
    """R of the equations (x, y), K = F + 2"""


def _moments(a: Summary, b: Summary) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Count, mean and square of both. Chan, Golub, LeVeque (1983, The American Statistician 37:242)."""
    count = a.count + b.count
    share, apart = b.count / jnp.maximum(count, 1), b.mean - a.mean
    return count, a.mean + apart * share, a.square + b.square + apart**2 * a.count * share


def _factor(*rows: jax.Array) -> Float[Array, "K K"]:
    """R of all these rows, with rows of zeros where there are fewer than columns."""
    factor = triangular_factor(jnp.concatenate(rows))
    return jnp.pad(factor, ((0, factor.shape[1] - factor.shape[0]), (0, 0)))


def without_each(
    z: Float[Array, "N T F"], valid: Bool[Array, "N T"], equations: Float[Array, "N T K"], ridge: float
) -> Float[Array, "N F+1"]:
    """Weights w_n of the ridge regression on all episodes but n, for every n.

    Each is the minimum of Σ (x·w − y)² over the others' steps plus ridge·(number of their steps)·‖w'‖², w' being the
    weights of features that are standardised over these steps; where a feature is constant there, its weight is 0. So
    w_n depends on nothing of episode n.

    The others of n are those before and those after it, whose summaries are had by one pass from either end: N small
    decompositions each instead of N large ones.

    Args:
        z: features in any unit near 1; read where `valid`.
        valid: steps that count.
        equations: rows (x, y) of x·w = y, x with an intercept as its last component; 0 where not valid.
        ridge: > 0.

    Returns:
        w in the units of z, the intercept last.
    """
    size = equations.shape[-1]
    counted = valid.astype(z.dtype)
    count = counted.sum(1)
    kept = jnp.where(valid[..., None], z, 0)
    mean = kept.sum(1) / jnp.maximum(count, 1)[:, None]
    square = (jnp.where(valid[..., None], z - mean[:, None], 0) ** 2).sum(1)
    factors = jax.vmap(_factor)(equations)
    each = Summary(count, mean, square, factors)
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), each)

    def of_those_before(summary, following):
        return Summary(*_moments(summary, following), _factor(summary.factor, following.factor)), summary

    before = jax.lax.scan(of_those_before, nothing, each)[1]
    after = jax.lax.scan(of_those_before, nothing, each, reverse=True)[1]

    def fit(before, after):
        count, mean, square = _moments(before, after)
        count = jnp.maximum(count, 1)
        deviation = jnp.sqrt(square / count)
        # What is constant in the others says nothing; a heavy row keeps its weight at 0.
        scale = jnp.where(deviation > 1e-6 * (1 + jnp.abs(mean)), jnp.sqrt(ridge) * deviation, 1e3)
        held = jnp.zeros((size - 1, size), z.dtype)
        held = held.at[jnp.arange(size - 2), jnp.arange(size - 2)].set(scale)
        held = held.at[-1, :-2].set(jnp.sqrt(ridge) * mean).at[-1, -2].set(jnp.sqrt(ridge))
        r = _factor(before.factor, after.factor, jnp.sqrt(count) * held)
        return solved(r[:-1, :-1], r[:-1, -1])

    return jax.vmap(fit)(before, after)
