"""Least squares by QR: one fit, and the fits that leave out one episode each.

The normal equations square the condition number, which float32 does not bear; R of a QR decomposition does not.
"""

from collections.abc import Callable
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
    """What a fit must know of some episodes, in coordinates of their own: x = ((z − mean) / scale, 1)."""

    steps: Float[Array, ""]
    """how many"""
    mean: Float[Array, " F"]
    """of the features z over these steps"""
    square: Float[Array, " F"]
    """Σ (z − mean)²"""
    factor: Float[Array, "K K"]
    """R of the equations (x, y), K = F + 2"""

    @property
    def varies(self) -> Bool[Array, " F"]:
        """Whether a feature is more than a constant over these steps."""
        return self._deviation > 1e-6 * (1 + jnp.abs(self.mean))

    @property
    def scale(self) -> Float[Array, " F"]:
        """The features' standard deviation; 1 of a constant."""
        return jnp.where(self.varies, self._deviation, 1)

    @property
    def _deviation(self) -> Float[Array, " F"]:
        return jnp.sqrt(self.square / jnp.maximum(self.steps, 1))

    def rows(self, other: "Summary") -> Float[Array, "K K"]:
        """`factor`, as equations in the coordinates of another summary."""
        z, rest = self.factor[:, :-2], self.factor[:, -2:]
        moved = z * (self.scale / other.scale) + rest[:, :1] * ((self.mean - other.mean) / other.scale)
        return jnp.concatenate([moved, rest], axis=1)


def _merged(a: Summary, b: Summary, ridge: float = 0.0) -> Summary:
    """The summary of both; with a ridge, whose rows are among the equations.

    Means and squares by Chan, Golub, LeVeque (1983, The American Statistician 37:242), which cancels nothing.
    """
    count = a.steps + b.steps
    share, apart = b.steps / jnp.maximum(count, 1), b.mean - a.mean
    both = Summary(count, a.mean + apart * share, a.square + b.square + apart**2 * a.steps * share, a.factor)
    rows = [a.rows(both), b.rows(both)]
    if ridge:
        # What is constant says nothing; a heavy row keeps its weight at 0.
        held = jnp.append(jnp.where(both.varies, jnp.sqrt(ridge), 1e3), jnp.sqrt(ridge))
        rows.append(jnp.pad(jnp.diag(jnp.sqrt(jnp.maximum(count, 1)) * held), ((0, 0), (0, 1))))
    return both._replace(factor=_factor(*rows))


def _factor(*rows: jax.Array) -> Float[Array, "K K"]:
    """R of all these rows, with rows of zeros where there are fewer than columns."""
    factor = triangular_factor(jnp.concatenate(rows))
    return jnp.pad(factor, ((0, factor.shape[1] - factor.shape[0]), (0, 0)))


def summary(
    z: Float[Array, "T F"],
    valid: Bool[Array, " T"],
    equations: Callable[[jax.Array, jax.Array], Float[Array, "T K"]],
) -> Summary:
    """That of one episode.

    Args:
        z: features; read where `valid`.
        valid: steps that count.
        equations: ``(mean, 1 / scale) → rows (x, y)`` of x·w = y in these coordinates; 0 where not valid.
    """
    count = valid.astype(z.dtype).sum()
    mean = jnp.where(valid[:, None], z, 0).sum(0) / jnp.maximum(count, 1)
    square = (jnp.where(valid[:, None], z - mean, 0) ** 2).sum(0)
    size = z.shape[1] + 2
    own = Summary(count, mean, square, jnp.zeros((size, size), z.dtype))
    return own._replace(factor=_factor(equations(mean, 1 / own.scale)))


def without_each(each: Summary, ridge: float) -> tuple[Float[Array, "N J"], Float[Array, "N F"], Float[Array, "N F"]]:
    """The ridge regressions on all episodes but n, for every n.

    Each is the minimum of Σ (x·w − y)² over the others' steps plus ridge·(number of their steps)·‖w‖², x being features
    that are standardised over these steps, and 1; a feature that is constant there has no weight. So nothing of a
    regression depends on episode n.

    The others of n are those before and those after it, whose summaries are had by one pass from either end: N small
    decompositions each instead of N large ones. A summary is in coordinates of its own, since those of all episodes
    would be episode n's too: where that one is far off, what varies in the others would look constant.

    Args:
        each: the episodes' summaries, leaves [N, ...].
        ridge: > 0.

    Returns:
        w, the mean and 1 / (standard deviation) of the features, 0 of a constant; J = F + 1, the intercept
        of w being its last.
    """
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), each)

    def of_those_before(summary, following):
        return _merged(summary, following), summary

    before = jax.lax.scan(of_those_before, nothing, each)[1]
    after = jax.lax.scan(of_those_before, nothing, each, reverse=True)[1]

    def fit(before, after):
        others = _merged(before, after, ridge)
        weights = solved(others.factor[:-1, :-1], others.factor[:-1, -1])
        return weights, others.mean, jnp.where(others.varies, 1 / others.scale, 0)

    return jax.vmap(fit)(before, after)
