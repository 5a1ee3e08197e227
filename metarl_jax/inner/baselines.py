"""Baselines V(s): what an advantage subtracts. A baseline is constant data; no gradient flows through its fit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metarl_jax import checks
from metarl_jax.inner.returns import reward_to_go
from metarl_jax.types import Trajectory

Baseline = Callable[[Trajectory, float], tuple[jax.Array, jax.Array]]
"""``(trajectory, γ) → (V(s_t) [N, T], V(s_{t+1}) [N, T])`` in units of discounted return."""


def zero() -> Baseline:
    """V = 0."""
    return lambda trajectory, discount: (jnp.zeros_like(trajectory.reward), jnp.zeros_like(trajectory.reward))


def linear_feature(ridge: float = 1e-5) -> Baseline:
    """V(s_t) = w·x(s_t, t) with x = (s, s², t, t², t³, 1), fitted to the stage's own discounted returns.

    The features are those of Duan et al. (2016, arXiv:1604.06778), used by MAML and ProMP. They are collinear
    where an observation holds cos and sin of an angle, and badly scaled, so that the normal equations fail in float32.
    Here the features are standardised over the valid steps, the ridge is relative to their unit variance, and the
    system is solved by QR of the stacked matrix [X; √(ridge·n) I], of condition number about √(F/ridge) at most.

    An episode of L steps that was truncated has an unknown rest, γ^{L−t} V(s_L), so its equations are
    (x_t − γ^{L−t} x_L)·w = Σ_{k=t}^{L−1} γ^{k−t} r_k, which is exact for a linear V.

    As in those papers V scores the very steps that it was fitted to. That needs many more steps than features: with
    hardly more steps than features V explains the returns themselves, and advantages become noise.

    Args:
        ridge: weight of ‖w‖² against the mean squared error, for standardised features.

    Raises:
        ValueError: `ridge` is not positive.
    """
    ridge = checks.positive("ridge", ridge)

    def features(observation, time):
        flat = observation.reshape(*time.shape, -1).astype(time.dtype)
        scaled = (time / 100.0)[..., None]
        return jnp.concatenate([flat, flat**2, scaled, scaled**2, scaled**3], axis=-1)

    def fit(trajectory: Trajectory, discount: float) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
        valid = trajectory.valid
        mask, count = valid[..., None], jnp.maximum(valid.sum(), 1)
        time = jnp.broadcast_to(jnp.arange(valid.shape[1], dtype=trajectory.reward.dtype), valid.shape)
        raw = jnp.where(mask, features(trajectory.observation, time), 0)
        mean = raw.sum((0, 1)) / count
        deviation = jnp.sqrt((jnp.where(mask, raw - mean, 0) ** 2).sum((0, 1)) / count)
        # A constant feature has no information besides the intercept; its column becomes zero, and the ridge holds it.
        varies = deviation > 1e-6 * (1 + jnp.abs(mean))
        scale = jnp.where(varies, 1 / jnp.where(varies, deviation, 1), 0)

        def design(observation, time):
            standardized = (features(observation, time) - mean) * scale
            return jnp.concatenate([standardized, jnp.ones_like(time)[..., None]], axis=-1)

        x = design(trajectory.observation, time)
        x_next = design(trajectory.next_observation, time + 1)
        # Σ over an episode of what is at its truncated step: x_L there, and the number of steps until it.
        cut = jnp.where(valid & trajectory.truncated, 1.0, 0.0)[..., None]
        x_cut = jnp.where(cut > 0, x_next, 0).sum(1, keepdims=True)
        rest = discount ** (valid.sum(1, keepdims=True) - time)[..., None] * cut.sum(1, keepdims=True)
        rows = jnp.where(mask, x - rest * x_cut, 0).reshape(-1, x.shape[-1])

        stacked = jnp.concatenate([rows, jnp.sqrt(ridge * count) * jnp.eye(x.shape[-1], dtype=x.dtype)])
        q, r = jnp.linalg.qr(stacked)
        targets = reward_to_go(trajectory, discount).reshape(-1)
        weights = jax.scipy.linalg.solve_triangular(r, q[: len(targets)].T @ targets)
        return jax.lax.stop_gradient((jnp.where(valid, x @ weights, 0), jnp.where(valid, x_next @ weights, 0)))

    return fit
