"""Surrogate losses of one inner step, for ONE task: ``(policy, φ, trajectory, advantage) → scalar``.

All have the same gradient at the behaviour policy, the policy gradient Σ_t A_t g_t with g_t = ∇log π(a_t|s_t). They
differ in the second derivative, which enters the meta-gradient. With H_t = ∇²log π(a_t|s_t) and
w_t = Σ_{k≤t} g_k it is

    score_function      Σ_t A_t H_t
    likelihood_ratio    Σ_t A_t (H_t + g_t g_tᵀ)
    dice                Σ_t A_t (H_t + w_t w_tᵀ − w_{t−1} w_{t−1}ᵀ)
    loaded_dice         Σ_t A_t (H_t + w_t w_tᵀ − λ² w_{t−1} w_{t−1}ᵀ), w_t = λ w_{t−1} + g_t

The last three estimate the Hessian of the expected return; `likelihood_ratio` omits the cross terms with the past. Time
is the last axis of [N, T], which must not be flattened.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metarl_jax import checks
from metarl_jax.base import Policy, Surrogate
from metarl_jax.inner.returns import backward_sum
from metarl_jax.policies.likelihood import log_prob, ratio_to_behavior
from metarl_jax.types import Number, PyTree, Trajectory


class OfLogProb:
    """Decorator for a surrogate that depends on the policy only through the log-probabilities of the actions taken.

    ``function: (log_prob [N, T], trajectory, advantage) → scalar`` becomes a `Surrogate`.
    """

    def __init__(self, function: Callable[[jax.Array, Trajectory, jax.Array], jax.Array]):
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, policy: Policy, params: PyTree, trajectory: Trajectory, advantage: jax.Array) -> jax.Array:
        """The loss of the policy on the trajectory."""
        return self.function(log_prob(policy, params, trajectory), trajectory, advantage)


@OfLogProb
def score_function(log_prob: jax.Array, trajectory: Trajectory, advantage: jax.Array) -> jax.Array:
    """−E_t[log π_φ(a_t|s_t) A_t], with E_t the `mean` of `metarl_jax.types.Trajectory`.

    Its Hessian lacks the term A ∇log π ∇log πᵀ, so the meta-gradient through it is biased for the expected-update
    objective; as the path derivative of the sampled update it is exact. Finn et al. (2017, arXiv:1703.03400).
    """
    advantage = jnp.where(trajectory.valid, advantage, 0)
    return -trajectory.mean(log_prob * advantage)


@OfLogProb
def likelihood_ratio(log_prob: jax.Array, trajectory: Trajectory, advantage: jax.Array) -> jax.Array:
    """−E_t[π_φ(a_t|s_t) / π_behaviour(a_t|s_t) · A_t]: low-variance curvature (LVC).

    At the behaviour policy the ratio is 1, and the Hessian is a low-variance estimate of that of the expected return.
    Rothfuss et al. (2019, arXiv:1810.06784), eq. 11.
    """
    advantage = jnp.where(trajectory.valid, advantage, 0)
    return -trajectory.mean(ratio_to_behavior(log_prob, trajectory) * advantage)


def _box(exponent: jax.Array) -> jax.Array:
    """DiCE's magic box, exp(x − stop(x)): value 1, derivative □ ∂x."""
    return jnp.exp(exponent - jax.lax.stop_gradient(exponent))


def _past_sum(terms: Float[Array, "N T"], factor: Number) -> Float[Array, "N T"]:
    """y_t = factor · y_{t−1} + terms_t, with y_{−1} = 0."""
    return backward_sum(terms[:, ::-1], jnp.full_like(terms, factor))[:, ::-1]


@OfLogProb
def dice(log_prob: jax.Array, trajectory: Trajectory, advantage: jax.Array) -> jax.Array:
    """−E_t[□_t r̃_t] with □_t = Π_{k≤t} π_φ(a_k|s_k) / stop(π_φ(a_k|s_k)) and r̃_t = A_t − A_{t+1}.

    r̃ are rewards whose reward-to-go is A. With `returns()` they are the rewards themselves, and this is DiCE as
    published (Foerster et al. 2018, arXiv:1802.05098). With A = G − b the sum is Σ_t □_t r_t + Σ_t (□_{t−1} − □_t) b_t.
    The second term is the control variate that keeps derivatives of all orders unbiased (Mao et al. 2019,
    arXiv:1906.02004, and TMAML, Liu et al. 2019, ICML).
    """
    valid = trajectory.valid
    advantage = jnp.where(valid, advantage, 0)
    next_advantage = jnp.concatenate([advantage[:, 1:], jnp.zeros_like(advantage[:, :1])], axis=1)
    log_probs = jnp.where(valid, log_prob, 0)
    return -trajectory.mean(_box(jnp.cumsum(log_probs, axis=1)) * (advantage - next_advantage))


def loaded_dice(lambda_: Number = 1.0) -> Surrogate:
    """−E_t[(□(W_t) − □(W_t − log π_t)) A_t] with W_t = λ W_{t−1} + log π_φ(a_t|s_t) and □(x) = exp(x − stop(x)).

    Up to the value, λ = 1 equals `dice` and λ = 0 equals `likelihood_ratio`. In between, the second derivative
    discounts the past by λ per step: less variance, some bias. The value is identically 0; only its derivatives are
    meaningful.

    Farquhar, Whiteson, Foerster (2019, arXiv:1909.10549).

    Args:
        lambda_: λ per step, in [0, 1].

    Raises:
        ValueError: λ is out of range.
    """
    factor = checks.share("lambda_ of loaded_dice", lambda_)

    @OfLogProb
    def surrogate(log_prob: jax.Array, trajectory: Trajectory, advantage: jax.Array) -> jax.Array:
        valid = trajectory.valid
        log_probs = jnp.where(valid, log_prob, 0)
        past_and_now = _past_sum(log_probs, factor)
        dependence = _box(past_and_now) - _box(past_and_now - log_probs)
        return -trajectory.mean(dependence * jnp.where(valid, advantage, 0))

    return surrogate


SURROGATES = {
    "score_function": score_function,
    "likelihood_ratio": likelihood_ratio,
    "dice": dice,
    "loaded_dice": loaded_dice(),
}
"""Surrogates by name; `loaded_dice` has λ = 1. For another λ pass ``loaded_dice(λ)``."""
