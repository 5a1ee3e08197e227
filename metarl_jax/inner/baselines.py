"""Baselines V(s): what an advantage subtracts. A baseline is constant data; no gradient flows through its fit.

Whether V may depend on the episodes that it scores decides about bias: see `leave_one_out`. Baselines with parameters
that outlive a stage are in `metarl_jax.inner.critics`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metarl_jax import checks
from metarl_jax.inner.least_squares import solved, summary, triangular_factor, without_each
from metarl_jax.inner.returns import reward_to_go
from metarl_jax.types import Trajectory

Baseline = Callable[[Trajectory, float], tuple[jax.Array, jax.Array]]
"""``(trajectory, γ) → (V(s_t) [N, T], V(s_{t+1}) [N, T])`` in units of discounted return; 0 on padding."""


class LinearModel(NamedTuple):
    """V = w·((x − mean)·scale, 1) for features x [F]: a fit, and all that scoring other episodes needs."""

    weights: jax.Array
    """[F + 1], in units of discounted return; the last one is the intercept"""
    mean: jax.Array
    """[F] of the features over the steps that were fitted"""
    scale: jax.Array
    """[F] 1 / their standard deviation; 0 where a feature was constant, so that it has no influence"""


class FittedBaseline(NamedTuple):
    """A baseline in two halves. Called as a `Baseline`, it scores the very episodes that it was fitted to."""

    fit: Callable[[Trajectory, float], Any]
    """``(trajectory, γ) → model``; episodes without a valid step have no influence, and there may be any number"""
    values: Callable[[Any, Trajectory], tuple[jax.Array, jax.Array]]
    """``(model, trajectory) → (V(s_t) [N, T], V(s_{t+1}) [N, T])``"""
    by_others: Baseline | None = None
    """the baseline that scores each episode by a fit to the others, where there is a cheaper way than N fits"""

    def __call__(self, trajectory: Trajectory, discount: float) -> tuple[jax.Array, jax.Array]:
        """(V(s_t), V(s_{t+1})) by a fit to the trajectory itself."""
        return jax.lax.stop_gradient(self.values(self.fit(trajectory, discount), trajectory))


def zero() -> Baseline:
    """V = 0."""
    return lambda trajectory, discount: (jnp.zeros_like(trajectory.reward), jnp.zeros_like(trajectory.reward))


def linear_feature(ridge: float = 1e-5) -> FittedBaseline:
    """V(s_t) = w·x(s_t, t) with x = (s, s², t, t², t³, 1), fitted to the stage's own discounted returns.

    The features are those of Duan et al. (2016, arXiv:1604.06778), used by MAML and ProMP. They are collinear
    where an observation holds cos and sin of an angle, and badly scaled, so that the normal equations fail in float32.
    Here the features are standardised over the valid steps, the ridge is relative to their unit variance, and the
    system is solved by QR of the stacked matrix [X; √(ridge·n) I], of condition number about √(F/ridge) at most.

    An episode of L steps that was truncated has an unknown rest, γ^{L−t} V(s_L), so its equations are
    (x_t − γ^{L−t} x_L)·w = Σ_{k=t}^{L−1} γ^{k−t} r_k, which is exact for a linear V.

    As in those papers V scores the very steps that it was fitted to. That needs many more steps than features: with
    hardly more steps than features V explains the returns themselves, and advantages become noise; see
    `metarl_jax.inner.choose_baseline`. `leave_one_out` and `metarl_jax.inner.previous_fit` score steps that were not
    fitted.

    Args:
        ridge: weight of ‖w‖² against the mean squared error, for standardised features.

    Raises:
        ValueError: `ridge` is not positive.
    """

    def features(observation, time):
        flat = observation.reshape(*time.shape, -1).astype(time.dtype)
        return jnp.concatenate([flat, flat**2, _powers(time)], axis=-1)

    return _linear(features, ridge)


def linear_time(ridge: float = 1e-5) -> FittedBaseline:
    """V(s_t) = w·(t, t², t³, 1): `linear_feature` without the observation, for few episodes or useless observations.

    Args:
        ridge: weight of ‖w‖² against the mean squared error, for standardised features.

    Raises:
        ValueError: `ridge` is not positive.
    """
    return _linear(lambda observation, time: _powers(time), ridge)


def leave_one_out(baseline: Baseline | None = None) -> Baseline:
    """V of each episode comes from a fit to the OTHER episodes of its stage.

    Given the policy, episodes are independent, so V_n is independent of the actions that it scores:
    E[∇log π(a_t|s_t) V_n(s_t)] = 0, and with λ = 1 and without normalisation the policy gradient stays unbiased. A fit
    to the episode's own return takes part of it away: of one-step episodes whose V is the mean, (N − 1)/N of the
    gradient is left. Kool, van Hoof, Welling (2019, "Buy 4 REINFORCE samples, get a baseline for free!").

    The linear fits of this module take two passes of small decompositions; those of others are N fits, and N times the
    time. An episode unlike all others is extrapolated to, which adds variance, not bias.

    Args:
        baseline: what to fit; default `linear_feature()`.

    Raises:
        ValueError: the baseline is not a fit of its data; at the call, a stage has only one episode.
    """
    baseline = linear_feature() if baseline is None else baseline
    if not isinstance(baseline, FittedBaseline):
        raise ValueError(f"baseline is {baseline!r}; leave_one_out needs one that is fitted, such as linear_feature()")
    fit, values = baseline.fit, baseline.values

    def score(trajectory: Trajectory, discount: float) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
        episodes = len(trajectory.valid)
        if episodes < 2:
            raise ValueError(
                f"episodes is {episodes}; leave_one_out fits each episode's baseline to the others of its stage, "
                "so there must be at least 2"
            )
        if baseline.by_others is not None:
            return jax.lax.stop_gradient(baseline.by_others(trajectory, discount))

        def one(n):
            others = trajectory.valid & (jnp.arange(episodes) != n)[:, None]
            model = fit(dataclasses.replace(trajectory, valid=others), discount)
            own = values(model, jax.tree.map(lambda leaf: leaf[n][None], trajectory))
            return jax.tree.map(lambda leaf: leaf[0], own)

        # In turn rather than at once: N copies of the design matrix of every task would be gigabytes.
        return jax.lax.stop_gradient(jax.lax.map(one, jnp.arange(episodes)))

    return score


def _times(trajectory: Trajectory) -> Float[Array, "N T"]:
    valid = trajectory.valid
    return jnp.broadcast_to(jnp.arange(valid.shape[1], dtype=trajectory.reward.dtype), valid.shape)


def _powers(time: Float[Array, "N T"]) -> Float[Array, "N T 3"]:
    scaled = (time / 100.0)[..., None]
    return jnp.concatenate([scaled, scaled**2, scaled**3], axis=-1)


def _linear(features: Callable[[jax.Array, jax.Array], jax.Array], ridge: float) -> FittedBaseline:
    """Ridge regression of the discounted return on ``features(observation [N, T, ...], t [N, T]) → [N, T, F]``."""
    ridge = checks.positive("ridge", ridge)

    def design(mean, scale, observation, time):
        standardized = (features(observation, time) - mean) * scale
        return jnp.concatenate([standardized, jnp.ones_like(time)[..., None]], axis=-1)

    def equations_of(mean, scale, trajectory: Trajectory, discount: float) -> Float[Array, "N T K"]:
        """Rows (x, y) of x·w = y, K = F + 2; 0 on padding."""
        valid, time = trajectory.valid, _times(trajectory)
        x = design(mean, scale, trajectory.observation, time)
        x_next = design(mean, scale, trajectory.next_observation, time + 1)
        # Σ over an episode of what is at its truncated step: x_L there, and the number of steps until it.
        cut = jnp.where(valid & trajectory.truncated, 1.0, 0.0)[..., None]
        x_cut = jnp.where(cut > 0, x_next, 0).sum(1, keepdims=True)
        steps_left = jnp.maximum(valid.sum(1, keepdims=True) - time, 0)
        rest = discount ** steps_left[..., None] * cut.sum(1, keepdims=True)
        targets = reward_to_go(trajectory, discount)[..., None]
        return jnp.where(valid[..., None], jnp.concatenate([x - rest * x_cut, targets], -1), 0)

    def fit(trajectory: Trajectory, discount: float) -> LinearModel:
        mask, count = trajectory.valid[..., None], jnp.maximum(trajectory.valid.sum(), 1)
        raw = jnp.where(mask, features(trajectory.observation, _times(trajectory)), 0)
        mean = raw.sum((0, 1)) / count
        deviation = jnp.sqrt((jnp.where(mask, raw - mean, 0) ** 2).sum((0, 1)) / count)
        # A constant feature has no information besides the intercept; its column becomes zero, and the ridge holds it.
        varies = deviation > 1e-6 * (1 + jnp.abs(mean))
        scale = jnp.where(varies, 1 / jnp.where(varies, deviation, 1), 0)
        equations = equations_of(mean, scale, trajectory, discount)
        # R of the QR of [X y; √(ridge·n) I 0] holds Qᵀy in its last column, so that Q itself is never formed.
        equations = equations.reshape(-1, equations.shape[-1])
        held = jnp.sqrt(ridge * count) * jnp.eye(len(mean) + 1, dtype=equations.dtype)
        r = triangular_factor(jnp.block([[equations], [held, jnp.zeros_like(held[:, :1])]]))
        weights = solved(r[:-1, :-1], r[:-1, -1])
        return jax.lax.stop_gradient(LinearModel(weights, mean, scale))

    def values(model: LinearModel, trajectory: Trajectory) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
        time = _times(trajectory)

        def score(observation, time):
            x = design(model.mean, model.scale, observation, time)
            return jnp.where(trajectory.valid[..., None], x, 0) @ model.weights

        return score(trajectory.observation, time), score(trajectory.next_observation, time + 1)

    def by_others(trajectory: Trajectory, discount: float) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
        alone = jax.tree.map(lambda leaf: leaf[:, None], trajectory)  # N stages of one episode

        def of_episode(own):
            z = features(own.observation, _times(own))[0]
            return summary(z, own.valid[0], lambda mean, scale: equations_of(mean, scale, own, discount)[0])

        models = LinearModel(*without_each(jax.vmap(of_episode)(alone), ridge))
        now, following = jax.vmap(values)(models, alone)
        return now[:, 0], following[:, 0]

    return FittedBaseline(fit, values, by_others)
