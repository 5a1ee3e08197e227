"""Running mean and variance of numbers, and the discounted rewards whose size is normalised by."""

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.types import Number, PyTree, Trajectory


def varies(deviation: jax.Array, mean: jax.Array) -> jax.Array:
    """Whether numbers with this standard deviation and mean are more than a constant and its rounding.

    The limit is 1e-6 (1 + |mean|). It has an absolute part, since what rounding leaves of a zero must not be scaled up
    to size 1. So numbers in a unit in which they vary by less than 1e-6 count as constant.
    """
    return deviation > 1e-6 * (1 + jnp.abs(mean))


@struct.dataclass
class Moments:
    """Count, mean and variance of the numbers seen; mean and variance are trees like one observation, or [] each."""

    count: jax.Array
    """[] float: steps seen"""
    mean: PyTree
    variance: PyTree

    @property
    def scale(self) -> PyTree:
        """The standard deviations; 1 where nothing but one value was seen, or nothing and no variance was given."""

        def of_leaf(mean, variance):
            deviation = jnp.sqrt(variance)
            return jnp.where(varies(deviation, mean), deviation, 1)

        return jax.tree.map(of_leaf, self.mean, self.variance)

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both samples together: Chan, Golub, LeVeque (1983)."""
        count = self.count + other.count
        share = other.count / jnp.maximum(count, 1)

        def mean(a, b):
            return jnp.where(share == 1, b, a + share * (b - a))  # without the rounding by an `a` that counts nothing

        def variance(a, b, mean_a, mean_b):
            return mean(a, b) + share * (1 - share) * (mean_b - mean_a) ** 2

        return Moments(
            count,
            jax.tree.map(mean, self.mean, other.mean),
            jax.tree.map(variance, self.variance, other.variance, self.mean, other.mean),
        )

    def shifted(self, mean: PyTree, scale: PyTree) -> "Moments":
        """The moments of mean + scale · y, where these are those of y."""
        means = jax.tree.map(lambda m, s, y: m + s * y, mean, scale, self.mean)
        return Moments(self.count, means, jax.tree.map(lambda s, y: s**2 * y, scale, self.variance))


def nothing_seen(like: PyTree) -> Moments:
    """Of no steps, for values of these shapes."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, float), like)
    return Moments(jnp.zeros((), float), zeros, zeros)


def moments_of(values: PyTree, valid: jax.Array) -> Moments:
    """Over the valid steps; `values` has leaves [*valid.shape, ...]."""
    count = valid.sum(dtype=float)

    def mean(leaf):
        mask = valid.reshape(valid.shape + (1,) * (leaf.ndim - valid.ndim))
        return jnp.where(mask, leaf, 0).sum(range(valid.ndim)) / jnp.maximum(count, 1)

    means = jax.tree.map(mean, values)
    return Moments(count, means, jax.tree.map(lambda leaf, center: mean((leaf - center) ** 2), values, means))


def gains(trajectory: Trajectory, discount: Number) -> jax.Array:
    """g_t = Σ_{k≤t} γ^{t−k} r_k along each episode, [..., T]."""

    def step(gain, reward):
        gain = discount * gain + reward
        return gain, gain

    rewards = jnp.moveaxis(trajectory.reward, -1, 0)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(rewards[0]), rewards)[1], 0, -1)
