"""Least squares by QR: a single fit, and all fits that leave out one episode.

The normal equations square the condition number, which is too large for float32; a QR decomposition avoids this.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metarl_jax import moments

BLOCK_ROWS = 128
"""Rows per block of `blockwise_factor`; more if there are many columns."""


def triangular_factor(matrix: Float[Array, "M F"]) -> Float[Array, "K F"]:
    """R of a QR decomposition, K = min(M, F) rows; the signs of its rows are arbitrary, but R x = Qᵀ y is unique.

    On a CPU it uses LAPACK, one matrix of a batch after the other; if several devices share a batch, it uses
    `reflected_factor`, which XLA can shard. A GPU has a batched kernel for small decompositions but does tall ones in
    sequence, so there it uses `blockwise_factor`.
    """
    on_cpu = reflected_factor if jax.sharding.get_abstract_mesh().size > 1 else _in_turn
    return jax.lax.platform_dependent(matrix, cpu=on_cpu, default=blockwise_factor)


def _whole_factor(matrix: Float[Array, "M F"]) -> Float[Array, "K F"]:
    return jnp.linalg.qr(matrix, mode="r")


# In jaxlib 0.10 a batched LAPACK call distributes its work over the CPU thread pool that it runs on, and waits for it.
# Two concurrent calls, from two devices or two programs, can occupy all threads of a small pool and deadlock. A LAPACK
# call for one matrix does not use the pool.
_in_turn = jax.custom_batching.sequential_vmap(_whole_factor)


def reflected_factor(matrix: Float[Array, "M F"]) -> Float[Array, "K F"]:
    """R by Householder reflections: a loop over columns in plain XLA operations, without LAPACK."""
    rows = jnp.arange(len(matrix))

    def reflect(column, current):
        x = jnp.where(rows >= column, current[:, column], 0)
        length = jnp.linalg.norm(x)
        # The sign that avoids cancellation.
        normal = x.at[column].add(jnp.where(x[column] < 0, -length, length))
        square = normal @ normal
        return current - jnp.where(square > 0, 2 / jnp.where(square > 0, square, 1), 0) * jnp.outer(
            normal, normal @ current
        )

    rank = min(matrix.shape)
    return jnp.triu(jax.lax.fori_loop(0, rank, reflect, matrix)[:rank])


def solved(upper: Float[Array, "F F"], target: Float[Array, " F"]) -> Float[Array, " F"]:
    """Solves R x = y for an upper triangular R; on a CPU without LAPACK, whose batched calls can deadlock."""
    return jax.lax.platform_dependent(upper, target, cpu=back_substituted, default=jax.scipy.linalg.solve_triangular)


def back_substituted(upper: Float[Array, "F F"], target: Float[Array, " F"]) -> Float[Array, " F"]:
    """x_i = (y_i − Σ_{j>i} R_ij x_j) / R_ii, from the last row to the first."""

    def row(step, x):  # components not yet computed are 0
        i = len(target) - 1 - step
        return x.at[i].set((target[i] - upper[i] @ x) / upper[i, i])

    return jax.lax.fori_loop(0, len(target), row, jnp.zeros_like(target))


def blockwise_factor(matrix: Float[Array, "M F"]) -> Float[Array, "K F"]:
    """R by blocks of rows: [A; B] = [Q_A R_A; Q_B R_B] has the R of [R_A; R_B].

    Each step multiplies by an orthogonal matrix, so it is as stable as a decomposition of the whole matrix.
    Demmel et al. (2012, arXiv:0808.2664).
    """
    rows, columns = matrix.shape
    block = max(BLOCK_ROWS, 4 * columns)  # reduces the number of rows at least fourfold
    if rows <= block:
        return _whole_factor(matrix)
    blocks = -(-rows // block)
    padded = jnp.pad(matrix, ((0, blocks * block - rows), (0, 0)))  # zero rows do not change R
    factors = jax.vmap(_whole_factor)(padded.reshape(blocks, block, columns))
    return blockwise_factor(factors.reshape(-1, columns))


class Summary(NamedTuple):
    """Sufficient statistics of some episodes for a fit, in standardised coordinates x = ((z − mean) / scale, 1)."""

    steps: Float[Array, ""]
    """number of steps"""
    mean: Float[Array, " F"]
    """mean of the features z over these steps"""
    square: Float[Array, " F"]
    """Σ (z − mean)²"""
    factor: Float[Array, "K K"]
    """R of the equations (x, y), K = F + 2"""

    @property
    def varies(self) -> Bool[Array, " F"]:
        """Whether each feature is not constant over these steps."""
        return moments.varies(self._deviation, self.mean)

    @property
    def scale(self) -> Float[Array, " F"]:
        """Standard deviation of the features; 1 for a constant feature."""
        return jnp.where(self.varies, self._deviation, 1)

    @property
    def _deviation(self) -> Float[Array, " F"]:
        return jnp.sqrt(self.square / jnp.maximum(self.steps, 1))

    def rows(self, other: "Summary") -> Float[Array, "K K"]:
        """`factor` as equations in the coordinates of another summary."""
        z, rest = self.factor[:, :-2], self.factor[:, -2:]
        moved = z * (self.scale / other.scale) + rest[:, :1] * ((self.mean - other.mean) / other.scale)
        return jnp.concatenate([moved, rest], axis=1)


def _merged(a: Summary, b: Summary, ridge: float = 0.0) -> Summary:
    """The summary of both, optionally with the rows of a ridge among the equations.

    Means and squares by Chan, Golub, LeVeque (1983, The American Statistician 37:242), without cancellation.
    """
    count = a.steps + b.steps
    share, apart = b.steps / jnp.maximum(count, 1), b.mean - a.mean
    both = Summary(count, a.mean + apart * share, a.square + b.square + apart**2 * a.steps * share, a.factor)
    rows = [a.rows(both), b.rows(both)]
    if ridge:
        # A constant feature is uninformative; a large ridge weight keeps its coefficient at 0.
        ridge_weights = jnp.append(jnp.where(both.varies, jnp.sqrt(ridge), 1e3), jnp.sqrt(ridge))
        rows.append(jnp.pad(jnp.diag(jnp.sqrt(jnp.maximum(count, 1)) * ridge_weights), ((0, 0), (0, 1))))
    return both._replace(factor=_factor(*rows))


def _factor(*rows: jax.Array) -> Float[Array, "K K"]:
    """R of all these rows, padded with zero rows if there are fewer than columns."""
    factor = triangular_factor(jnp.concatenate(rows))
    return jnp.pad(factor, ((0, factor.shape[1] - factor.shape[0]), (0, 0)))


def summary(
    z: Float[Array, "T F"],
    valid: Bool[Array, " T"],
    equations: Callable[[jax.Array, jax.Array], Float[Array, "T K"]],
) -> Summary:
    """The summary of one episode.

    Args:
        z: features; only valid steps are used.
        valid: mask of the steps that count.
        equations: ``(mean, 1 / scale) → rows (x, y)`` of x·w = y in these coordinates; 0 where not valid.
    """
    count = valid.astype(z.dtype).sum()
    mean = jnp.where(valid[:, None], z, 0).sum(0) / jnp.maximum(count, 1)
    square = (jnp.where(valid[:, None], z - mean, 0) ** 2).sum(0)
    size = z.shape[1] + 2
    episode = Summary(count, mean, square, jnp.zeros((size, size), z.dtype))
    return episode._replace(factor=_factor(equations(mean, 1 / episode.scale)))


def without_each(each: Summary, ridge: float) -> tuple[Float[Array, "N J"], Float[Array, "N F"], Float[Array, "N F"]]:
    """The ridge regressions on all episodes except n, for each n.

    Regression n minimises Σ (x·w − y)² over the steps of the other episodes, plus ridge·(number of these steps)·‖w‖². x
    are the features standardised over the same steps, and 1; a feature that is constant there has weight 0. So
    regression n does not depend on episode n at all.

    The other episodes are those before n and those after n. Their summaries come from one forward and one backward
    pass, with N small decompositions each instead of N large ones. Each summary has its own coordinates: with common
    coordinates, an outlying episode n could make features that vary in the others look constant.

    Args:
        each: summaries of the episodes, leaves [N, ...].
        ridge: > 0.

    Returns:
        w, with the intercept last (J = F + 1), and the mean and 1 / (standard deviation) of the features, the latter 0
        for a constant feature.
    """
    empty = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), each)

    def of_those_before(summary, episode):
        return _merged(summary, episode), summary

    before = jax.lax.scan(of_those_before, empty, each)[1]
    after = jax.lax.scan(of_those_before, empty, each, reverse=True)[1]

    def fit(before, after):
        others = _merged(before, after, ridge)
        weights = solved(others.factor[:-1, :-1], others.factor[:-1, -1])
        return weights, others.mean, jnp.where(others.varies, 1 / others.scale, 0)

    return jax.vmap(fit)(before, after)
