"""Advantages: what a policy gradient weighs log-probabilities with. Data, so no gradient flows through them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metarl_jax.base import AdvantageEstimator
from metarl_jax.inner.baselines import Baseline, linear_feature
from metarl_jax.types import Trajectory


def _check_share(name: str, value: float):
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; it must lie in [0, 1]")


def _backward_sum(terms: Float[Array, "N T"], factors: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """y_t = terms_t + factors_t · y_{t+1}, with y_T = 0."""

    def step(following, now):
        term, factor = now
        total = term + factor * following
        return total, total

    _, total = jax.lax.scan(step, jnp.zeros_like(terms[:, 0]), (terms.T, factors.T), reverse=True)
    return total.T


def reward_to_go(trajectory: Trajectory, discount: float = 1.0) -> Float[Array, "N T"]:
    """G_t = Σ_{k≥t} γ^{k−t} r_k over the episode's own steps; 0 on padding, nothing is bootstrapped."""
    reward = jnp.where(trajectory.valid, trajectory.reward, 0)
    return _backward_sum(reward, jnp.full_like(reward, discount))


def normalize(advantage: Float[Array, "N T"], valid: jax.Array) -> Float[Array, "N T"]:
    """(A − mean) / std over the valid steps of ONE task's stage; 0 on padding, and everywhere if A is constant."""
    count = jnp.maximum(valid.sum(), 1)
    mean = jnp.where(valid, advantage, 0).sum() / count
    centered = jnp.where(valid, advantage - mean, 0)
    deviation = jnp.sqrt((centered**2).sum() / count)
    return centered / (deviation + 1e-8)


def returns(discount: float = 1.0) -> AdvantageEstimator:
    """A_t = G_t = Σ_{k≥t} γ^{k−t} r_k: plain REINFORCE, without baseline or normalisation.

    With γ = 1 the policy gradient that it weighs is the unbiased gradient of the mean return per step.

    Args:
        discount: γ per step, in [0, 1].

    Raises:
        ValueError: γ is out of range.
    """
    _check_share("discount", discount)
    return lambda trajectory: jax.lax.stop_gradient(reward_to_go(trajectory, discount))


def gae(
    discount: float = 0.99,
    lambda_: float = 1.0,
    baseline: Baseline | None = None,
    normalized: bool = True,
) -> AdvantageEstimator:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438).

    A_t = Σ_{k≥t} (γλ)^{k−t} δ_k,   δ_k = r_k + γ d_k V(s_{k+1}) − V(s_k)

    with d_k = 0 where the step terminated the episode. Where the environment truncated it, V(s_{k+1}) is that of the
    final observation and the sum ends; at the horizon, which belongs to the task, V(s_T) = 0.

    Args:
        discount: γ per step, in [0, 1].
        lambda_: λ, in [0, 1]; 1 is the discounted return minus the baseline.
        baseline: V; default `linear_feature()`.
        normalized: bring each task's stage to mean 0 and standard deviation 1, as MAML and ProMP do.

    Raises:
        ValueError: γ or λ is out of range.
    """
    _check_share("discount", discount)
    _check_share("lambda_", lambda_)
    baseline = linear_feature() if baseline is None else baseline

    def estimate(trajectory: Trajectory) -> jax.Array:
        valid, truncated = trajectory.valid, trajectory.truncated
        values, final_values = baseline(trajectory, reward_to_go(trajectory, discount))
        following = jnp.concatenate([jnp.where(valid, values, 0)[:, 1:], jnp.zeros_like(values[:, :1])], axis=1)
        following = jnp.where(truncated, final_values[:, None], following)
        continues = discount * trajectory.discount
        delta = jnp.where(valid, trajectory.reward + continues * following - values, 0)
        advantage = _backward_sum(delta, jnp.where(truncated, 0, lambda_ * continues))
        return jax.lax.stop_gradient(normalize(advantage, valid) if normalized else advantage)

    return estimate


ADVANTAGES = {"gae": gae, "returns": returns}
"""Estimators by name, each built with its own defaults."""
