"""Advantages, the weights of log-probabilities in a policy gradient. They are data: no gradient flows through them.

The policy gradient ĝ = E_t[A_t ∇log π(a_t|s_t)] of one task's stage, with E_t a sum over the steps taken divided by
N·T, estimates the following for episodes of any length (except for `average="valid"`, see
`metarl_jax.types.Trajectory.mean`):

* Plain returns, and `gae` with λ = 1 without normalisation and with a baseline that does not depend on the episode:
  exactly the gradient of the mean return of an episode, divided by T. A baseline fitted to the stage itself, such as
  `linear_feature`, adds a bias of order 1/N. If the environment truncates episodes, `gae` is as accurate as V.
* γ < 1 gives A_t = Σ_{k≥t} γ^{k−t} r_k. This is the usual estimator, but it is not the gradient of any function: the
  gradient of the discounted return E[Σ_t γᵗ r_t] has γᵗ A_t in place of A_t. The usual estimator is meant for the
  undiscounted return and trades bias for variance. The option `discount_states=True` adds the factor γᵗ and is exact.
* Normalised advantages are (A_t − m)/σ with m and σ computed from the same stage. ĝ is the task's gradient divided by
  T·σ, up to a bias of order 1/N, because m and σ depend on the episodes that they scale; with few episodes the bias is
  large. Inner steps then have similar length in all tasks. The outer gradient is the mean over tasks of ∇R_b/(T σ_b),
  with the σ_b of the counted stages. So the outer loop does not ascend J, but each task's return in units of the
  standard deviation of its advantages, with these units held fixed. Tasks whose advantages vary little at the current
  θ have a larger weight than in J.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metarl_jax import checks
from metarl_jax.base import AdvantageEstimator
from metarl_jax.inner.baselines import Baseline, linear_feature
from metarl_jax.inner.returns import backward_sum, reward_to_go, td_errors
from metarl_jax.types import Number, Trajectory

ScaledFunction = Callable[[Trajectory], tuple[Float[Array, "N T"], Float[Array, ""]]]


def scale_of(advantage: Float[Array, "N T"], valid: Bool[Array, "N T"], noise: Number = 0.0) -> Float[Array, ""]:
    """std + noise + 1e-8 [] over the valid steps of ONE task's stage: the divisor of `normalize`.

    Args:
        advantage: A [N, T].
        valid: mask of the steps that count [N, T].
        noise: bound on the rounding error of A; it prevents scaling up advantages that are only rounding noise.
    """
    centered = _centered(advantage, valid)
    return jnp.sqrt((centered**2).sum() / jnp.maximum(valid.sum(), 1)) + noise + 1e-8


def normalize(advantage: Float[Array, "N T"], valid: Bool[Array, "N T"], noise: Number = 0.0) -> Float[Array, "N T"]:
    """(A − mean) / (std + noise) over the valid steps of ONE task's stage, 0 on padding; arguments as in `scale_of`."""
    return _centered(advantage, valid) / scale_of(advantage, valid, noise)


def _centered(advantage: Float[Array, "N T"], valid: Bool[Array, "N T"]) -> Float[Array, "N T"]:
    mean = jnp.where(valid, advantage, 0).sum() / jnp.maximum(valid.sum(), 1)
    return jnp.where(valid, advantage - mean, 0)


def gae_of_values(
    trajectory: Trajectory,
    values: Float[Array, "N T"],
    next_values: Float[Array, "N T"],
    discount: Number,
    lambda_: Number,
) -> Float[Array, "N T"]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438) from given values; equation in `gae`.

    Args:
        trajectory: one task's stage.
        values: V(s_t) [N, T], in units of discounted return.
        next_values: V(s_{t+1}) [N, T].
        discount: γ per step.
        lambda_: λ.

    Returns:
        A [N, T] in units of discounted return, not normalised; 0 on padding. Gradients are not stopped.
    """
    delta = td_errors(trajectory, values, next_values, discount)
    return backward_sum(delta, lambda_ * (discount * trajectory.discount))


def estimate(
    trajectory: Trajectory,
    values: tuple[jax.Array, jax.Array],
    discount: Number,
    lambda_: Number,
    normalized: bool,
) -> tuple[Float[Array, "N T"], Float[Array, ""]]:
    """The advantage of one task's stage, and its divisor.

    Args:
        trajectory: one task's stage.
        values: (V(s_t), V(s_{t+1})), each [N, T], as a `metarl_jax.inner.Baseline` returns them.
        discount: γ per step.
        lambda_: λ.
        normalized: normalise the stage to mean 0 and standard deviation 1.

    Returns:
        A [N, T] and its scale [] in units of discounted return. A·scale is `gae_of_values`, minus its mean if
        normalised; the scale is 1 if not. Both are without gradient.
    """
    advantage = gae_of_values(trajectory, *values, discount, lambda_)
    scale = jnp.ones((), advantage.dtype)
    if normalized:
        # Even a perfect baseline leaves a residual of about 1e-5 of the returns, from float32 rounding and the ridge.
        noise = 1e-4 * jnp.abs(reward_to_go(trajectory, discount)).max()
        scale = scale_of(advantage, trajectory.valid, noise)
        advantage = normalize(advantage, trajectory.valid, noise)
    return jax.lax.stop_gradient((advantage, scale))


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An advantage estimator with its γ and, if it divides the advantages by a scale, with that."""

    function: AdvantageEstimator
    discount: Number
    """γ per step"""
    scaled: ScaledFunction | None = None
    """``trajectory → (A [N, T], scale [])``, as `estimate` returns them; None: the scale is 1"""

    def __call__(self, trajectory: Trajectory) -> Float[Array, "N T"]:
        """A [N, T]."""
        return self.function(trajectory)


def returns(discount: Number = 1.0) -> Estimator:
    """A_t = G_t = Σ_{k≥t} γ^{k−t} r_k: plain REINFORCE, without baseline or normalisation.

    With γ = 1 the policy gradient is the unbiased gradient of the mean return of an episode, divided by T; for γ < 1
    see the module docstring.

    Args:
        discount: γ per step, in [0, 1].

    Raises:
        ValueError: γ is out of range.
    """
    discount = checks.share("discount", discount)
    return Estimator(lambda trajectory: jax.lax.stop_gradient(reward_to_go(trajectory, discount)), discount)


def gae(
    discount: Number = 0.99,
    lambda_: Number = 1.0,
    baseline: Baseline | None = None,
    normalized: bool = True,
) -> Estimator:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438).

    A_t = Σ_{k≥t} (γλ)^{k−t} δ_k,   δ_k = r_k + γ d_k V(s_{k+1}) − V(s_k)

    with d_k = 0 if the step terminated the episode. If the environment truncated the episode, the sum ends with
    V(s_{k+1}) of the final observation. At the horizon, which belongs to the task, V(s_T) = 0. The module docstring
    describes the effect of γ < 1 and of normalisation on the policy gradient.

    Args:
        discount: γ per step, in [0, 1].
        lambda_: λ, in [0, 1]; 1 is the discounted return minus the baseline.
        baseline: V; default `linear_feature()`.
        normalized: normalise each task's stage to mean 0 and standard deviation 1, as in MAML and ProMP.

    Raises:
        ValueError: γ or λ is out of range.
    """
    discount, lambda_ = checks.share("discount", discount), checks.share("lambda_", lambda_)
    normalized = checks.boolean("normalized", normalized)
    baseline = linear_feature() if baseline is None else baseline

    def scaled(trajectory: Trajectory):
        return estimate(trajectory, baseline(trajectory, discount), discount, lambda_, normalized)

    return Estimator(lambda trajectory: scaled(trajectory)[0], discount, scaled)


ADVANTAGES = {"gae": gae, "returns": returns}
"""Estimators by name, built with their defaults."""
