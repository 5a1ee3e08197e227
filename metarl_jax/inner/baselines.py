"""Baselines V(s), which advantages subtract. A baseline is constant data; no gradient flows through its fit.

A baseline fitted to the episodes it scores is biased, see `leave_one_out`. Baselines with parameters that persist
across stages are in `metarl_jax.inner.critics`.
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
from metarl_jax.moments import varies
from metarl_jax.observations import flat
from metarl_jax.types import Number, PyTree, Trajectory

Baseline = Callable[[Trajectory, Number], tuple[jax.Array, jax.Array]]
"""``(trajectory, γ) → (V(s_t) [N, T], V(s_{t+1}) [N, T])`` in units of discounted return; 0 on padding."""


class LinearModel(NamedTuple):
    """A fitted linear model, V = w·((x − mean)·scale, 1) with features x [F]."""

    weights: jax.Array
    """[F + 1], in units of discounted return; the last one is the intercept"""
    mean: jax.Array
    """[F] mean of the features over the fitted steps"""
    scale: jax.Array
    """[F] 1 / standard deviation of the features; 0 for a constant feature, which then has no influence"""


class FittedBaseline(NamedTuple):
    """A baseline as a pair of fit and prediction. Called as a `Baseline`, it scores the episodes it was fitted to."""

    fit: Callable[[Trajectory, Number], Any]
    """``(trajectory, γ) → model``, for any number of episodes; those without a valid step have no influence"""
    values: Callable[[Any, Trajectory], tuple[jax.Array, jax.Array]]
    """``(model, trajectory) → (V(s_t) [N, T], V(s_{t+1}) [N, T])``"""
    by_others: Baseline | None = None
    """a baseline that scores each episode by a fit to the others, cheaper than N fits; None: not available"""

    def __call__(self, trajectory: Trajectory, discount: Number) -> tuple[jax.Array, jax.Array]:
        """(V(s_t), V(s_{t+1})) from a fit to the trajectory itself."""
        return jax.lax.stop_gradient(self.values(self.fit(trajectory, discount), trajectory))


def zero() -> Baseline:
    """V = 0."""
    return lambda trajectory, discount: (jnp.zeros_like(trajectory.reward), jnp.zeros_like(trajectory.reward))


def linear_feature(ridge: float = 1e-5) -> FittedBaseline:
    """V(s_t) = w·x(s_t, t) with x = (s, s², t, t², t³, 1), fitted to the discounted returns of the stage.

    s are all numbers of an observation, in a tree those of one array after the other. The features are those of Duan et
    al. (2016, arXiv:1604.06778), used by MAML and ProMP. They are badly scaled, and
    collinear if an observation contains cos and sin of an angle, so the normal equations fail in float32. Here the
    features are standardised over the valid steps, the ridge is relative to their unit variance, and the system is
    solved by QR of the stacked matrix [X; √(ridge·n) I], with a condition number of at most about √(F/ridge).

    A truncated episode of L steps has an unknown remaining return γ^{L−t} V(s_L), so its equations are
    (x_t − γ^{L−t} x_L)·w = Σ_{k=t}^{L−1} γ^{k−t} r_k, which is exact for a linear V.

    As in those papers, V scores the same steps that it was fitted to. This needs many more steps than features:
    otherwise V fits the returns themselves and advantages become noise, see `metarl_jax.inner.choose_baseline`.
    `leave_one_out` and `metarl_jax.inner.previous_fit` score steps that were not fitted.

    Args:
        ridge: weight of ‖w‖² against the mean squared error, for standardised features.

    Raises:
        ValueError: `ridge` is not positive.
    """

    def features(observation, time):
        numbers = flat(observation, time.ndim, time.dtype)
        return jnp.concatenate([numbers, numbers**2, _powers(time)], axis=-1)

    return _linear(features, ridge)


def linear_time(ridge: float = 1e-5) -> FittedBaseline:
    """V(s_t) = w·(t, t², t³, 1): `linear_feature` without observations, for few episodes or uninformative observations.

    Args:
        ridge: weight of ‖w‖² against the mean squared error, for standardised features.

    Raises:
        ValueError: `ridge` is not positive.
    """
    return _linear(lambda observation, time: _powers(time), ridge)


def leave_one_out(baseline: Baseline | None = None) -> Baseline:
    """V of each episode is fitted to the OTHER episodes of its stage.

    Given the policy, episodes are independent, so V_n is independent of the actions that it scores:
    E[∇log π(a_t|s_t) V_n(s_t)] = 0, and with λ = 1 and without normalisation the policy gradient stays unbiased. A fit
    that includes the scored episode shrinks the gradient: for one-step episodes with V the mean return, to (N − 1)/N of
    its value. Kool, van Hoof, Welling (2019, "Buy 4 REINFORCE samples, get a baseline for free!").

    The linear fits of this module take two passes of small decompositions; other baselines take N fits and N times as
    long. For an episode unlike all others V extrapolates, which adds variance, not bias.

    Args:
        baseline: the baseline to fit; default `linear_feature()`.

    Raises:
        ValueError: the baseline is not a `FittedBaseline`; at the call, a stage has only one episode.
    """
    baseline = linear_feature() if baseline is None else baseline
    if not isinstance(baseline, FittedBaseline):
        raise ValueError(f"baseline is {baseline!r}; leave_one_out needs one that is fitted, such as linear_feature()")
    fit, values = baseline.fit, baseline.values

    def score(trajectory: Trajectory, discount: Number) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
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
            scores = values(model, jax.tree.map(lambda leaf: leaf[n][None], trajectory))
            return jax.tree.map(lambda leaf: leaf[0], scores)

        # In sequence, because N copies of the design matrix of each task would take gigabytes.
        return jax.lax.stop_gradient(jax.lax.map(one, jnp.arange(episodes)))

    return score


def _times(trajectory: Trajectory) -> Float[Array, "N T"]:
    valid = trajectory.valid
    return jnp.broadcast_to(jnp.arange(valid.shape[1], dtype=trajectory.reward.dtype), valid.shape)


def _powers(time: Float[Array, "N T"]) -> Float[Array, "N T 3"]:
    scaled = (time / 100.0)[..., None]
    return jnp.concatenate([scaled, scaled**2, scaled**3], axis=-1)


def _linear(features: Callable[[PyTree, jax.Array], jax.Array], ridge: float) -> FittedBaseline:
    """Ridge regression of the discounted return on ``features(observation [N, T, ...], t [N, T]) → [N, T, F]``."""
    ridge = checks.positive("ridge", ridge)

    def design(mean, scale, observation, time):
        standardized = (features(observation, time) - mean) * scale
        return jnp.concatenate([standardized, jnp.ones_like(time)[..., None]], axis=-1)

    def equations_of(mean, scale, trajectory: Trajectory, discount: Number) -> Float[Array, "N T K"]:
        """Rows (x, y) of x·w = y, K = F + 2; 0 on padding."""
        valid, time = trajectory.valid, _times(trajectory)
        x = design(mean, scale, trajectory.observation, time)
        x_next = design(mean, scale, trajectory.next_observation, time + 1)
        # Only the truncated step contributes to these sums over an episode: x_L, and an indicator of truncation.
        cut = jnp.where(valid & trajectory.truncated, 1.0, 0.0)[..., None]
        x_cut = jnp.where(cut > 0, x_next, 0).sum(1, keepdims=True)
        steps_left = jnp.maximum(valid.sum(1, keepdims=True) - time, 0)
        rest = discount ** steps_left[..., None] * cut.sum(1, keepdims=True)
        targets = reward_to_go(trajectory, discount)[..., None]
        return jnp.where(valid[..., None], jnp.concatenate([x - rest * x_cut, targets], -1), 0)

    def fit(trajectory: Trajectory, discount: Number) -> LinearModel:
        mask, count = trajectory.valid[..., None], jnp.maximum(trajectory.valid.sum(), 1)
        raw = jnp.where(mask, features(trajectory.observation, _times(trajectory)), 0)
        mean = raw.sum((0, 1)) / count
        deviation = jnp.sqrt((jnp.where(mask, raw - mean, 0) ** 2).sum((0, 1)) / count)
        # A constant feature is redundant with the intercept: its column becomes zero, and the ridge gives it weight 0.
        varied = varies(deviation, mean)
        scale = jnp.where(varied, 1 / jnp.where(varied, deviation, 1), 0)
        equations = equations_of(mean, scale, trajectory, discount)
        # R of the QR of [X y; √(ridge·n) I 0] contains Qᵀy in its last column, so Q is never formed.
        equations = equations.reshape(-1, equations.shape[-1])
        ridge_rows = jnp.sqrt(ridge * count) * jnp.eye(len(mean) + 1, dtype=equations.dtype)
        r = triangular_factor(jnp.block([[equations], [ridge_rows, jnp.zeros_like(ridge_rows[:, :1])]]))
        weights = solved(r[:-1, :-1], r[:-1, -1])
        return jax.lax.stop_gradient(LinearModel(weights, mean, scale))

    def values(model: LinearModel, trajectory: Trajectory) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
        time = _times(trajectory)

        def score(observation, time):
            x = design(model.mean, model.scale, observation, time)
            return jnp.where(trajectory.valid[..., None], x, 0) @ model.weights

        return score(trajectory.observation, time), score(trajectory.next_observation, time + 1)

    def by_others(trajectory: Trajectory, discount: Number) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
        alone = jax.tree.map(lambda leaf: leaf[:, None], trajectory)  # N stages of one episode

        def of_episode(episode):
            z = features(episode.observation, _times(episode))[0]
            return summary(z, episode.valid[0], lambda mean, scale: equations_of(mean, scale, episode, discount)[0])

        models = LinearModel(*without_each(jax.vmap(of_episode)(alone), ridge))
        values_now, next_values = jax.vmap(values)(models, alone)
        return values_now[:, 0], next_values[:, 0]

    return FittedBaseline(fit, values, by_others)
