"""Advantages: what a policy gradient weighs log-probabilities with. Data, so no gradient flows through them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metarl_jax import checks
from metarl_jax.base import AdvantageEstimator
from metarl_jax.inner.baselines import Baseline, linear_feature
from metarl_jax.inner.returns import backward_sum, reward_to_go
from metarl_jax.types import Trajectory


def normalize(advantage: Float[Array, "N T"], valid: jax.Array, noise: float | jax.Array = 0.0) -> Float[Array, "N T"]:
    """(A − mean) / (std + noise) over the valid steps of ONE task's stage; 0 on padding.

    Args:
        advantage: A [N, T].
        valid: which steps count [N, T].
        noise: what rounding may leave of an A that is constant; advantages of that size are not blown up to size 1.
    """
    count = jnp.maximum(valid.sum(), 1)
    mean = jnp.where(valid, advantage, 0).sum() / count
    centered = jnp.where(valid, advantage - mean, 0)
    deviation = jnp.sqrt((centered**2).sum() / count)
    return centered / (deviation + noise + 1e-8)


def returns(discount: float = 1.0) -> AdvantageEstimator:
    """A_t = G_t = Σ_{k≥t} γ^{k−t} r_k: plain REINFORCE, without baseline or normalisation.

    With γ = 1 the policy gradient that it weighs is the unbiased gradient of the mean return per step.

    Args:
        discount: γ per step, in [0, 1].

    Raises:
        ValueError: γ is out of range.
    """
    discount = checks.share("discount", discount)
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
    discount, lambda_ = checks.share("discount", discount), checks.share("lambda_", lambda_)
    baseline = linear_feature() if baseline is None else baseline

    def estimate(trajectory: Trajectory) -> jax.Array:
        valid, truncated = trajectory.valid, trajectory.truncated
        values, next_values = baseline(trajectory, discount)
        goes_on = jnp.concatenate([valid[:, 1:], jnp.zeros_like(valid[:, :1])], axis=1)
        following = jnp.where(goes_on | truncated, next_values, 0)
        continues = discount * trajectory.discount
        delta = jnp.where(valid, trajectory.reward + continues * following - values, 0)
        advantage = backward_sum(delta, jnp.where(truncated, 0, lambda_ * continues))
        if normalized:
            # Where nothing is left to explain, float32 and the ridge still leave some 1e-5 of the returns unexplained.
            noise = 1e-4 * jnp.abs(reward_to_go(trajectory, discount)).max()
            advantage = normalize(advantage, valid, noise)
        return jax.lax.stop_gradient(advantage)

    return estimate


ADVANTAGES = {"gae": gae, "returns": returns}
"""Estimators by name, each built with its own defaults."""
