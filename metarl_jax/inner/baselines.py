"""Baselines V(s): what an advantage subtracts. A baseline is constant data; no gradient flows through its fit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metarl_jax.types import Trajectory

Baseline = Callable[[Trajectory, jax.Array], tuple[jax.Array, jax.Array]]
"""``(trajectory, targets [N, T]) → (V(s_t) [N, T], V(final observation) [N])`` in units of return."""


def zero() -> Baseline:
    """V = 0."""
    return lambda trajectory, targets: (jnp.zeros_like(targets), jnp.zeros_like(targets[:, 0]))


def linear_feature(ridge: float = 1e-5) -> Baseline:
    """V(s_t) = w·x(s_t, t) with x = (s, s², t, t², t³, 1), least squares on the stage's own targets.

    The features are those of Duan et al. (2016, arXiv:1604.06778), used by MAML and ProMP. They are collinear
    where an observation holds cos and sin of an angle, and badly scaled, so that the normal equations fail in float32.
    Here the features are standardised over the valid steps, the ridge is relative to their unit variance, and the
    system is solved by QR of the stacked matrix [X; √(ridge·n) I], of condition number about √(F/ridge) at most.

    Args:
        ridge: weight of ‖w‖² against the mean squared error, for standardised features.

    Raises:
        ValueError: `ridge` is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge!r}; it must be positive, or collinear features have no solution")

    def features(observation, time):
        flat = observation.reshape(*time.shape, -1)
        scaled = (time / 100.0)[..., None]
        return jnp.concatenate([flat, flat**2, scaled, scaled**2, scaled**3], axis=-1)

    def fit(trajectory: Trajectory, targets: Float[Array, "N T"]) -> tuple[Float[Array, "N T"], Float[Array, " N"]]:
        valid = trajectory.valid
        mask = valid[..., None]
        time = jnp.broadcast_to(jnp.arange(valid.shape[1], dtype=targets.dtype), valid.shape)
        x = jnp.where(mask, features(trajectory.observation.astype(targets.dtype), time), 0)
        count = jnp.maximum(valid.sum(), 1)

        mean = x.sum((0, 1)) / count
        centered = jnp.where(mask, x - mean, 0)
        deviation = jnp.sqrt((centered**2).sum((0, 1)) / count)
        # A constant feature has no information besides the intercept; its column becomes zero, and the ridge holds it.
        varies = deviation > 1e-6 * (1 + jnp.abs(mean))
        scale = jnp.where(varies, 1 / jnp.where(varies, deviation, 1), 0)
        standardized = (centered * scale).reshape(-1, x.shape[-1])

        intercept = jnp.where(valid, targets, 0).sum() / count
        residual = jnp.where(valid, targets - intercept, 0).reshape(-1)
        size = standardized.shape[-1]
        stacked = jnp.concatenate([standardized, jnp.sqrt(ridge * count) * jnp.eye(size, dtype=x.dtype)])
        q, r = jnp.linalg.qr(stacked)
        weights = jax.scipy.linalg.solve_triangular(r, q[: len(residual)].T @ residual)

        length = valid.sum(1).astype(targets.dtype)
        final = features(trajectory.final_observation.astype(targets.dtype), length)
        values = (standardized @ weights).reshape(valid.shape) + intercept
        final_values = ((final - mean) * scale) @ weights + intercept
        return jax.lax.stop_gradient((jnp.where(valid, values, 0), final_values))

    return fit
