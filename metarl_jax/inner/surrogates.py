"""Surrogate losses of one inner step, for ONE task: ``(policy, φ, trajectory, advantage) → scalar``.

All have the same gradient at the behaviour policy, the policy gradient; they differ in the second derivative, which is
what the meta-gradient sees. Arrays keep their [N, T] shape, since estimators to come need the order of time.
"""

import jax
import jax.numpy as jnp

from metarl_jax.base import Policy
from metarl_jax.policies.likelihood import log_prob, masked_mean, probability_ratio
from metarl_jax.types import PyTree, Trajectory


def score_function(policy: Policy, params: PyTree, trajectory: Trajectory, advantage: jax.Array) -> jax.Array:
    """−E_t[log π_φ(a_t|s_t) A_t], the mean over valid steps.

    Its Hessian lacks the term A ∇log π ∇log πᵀ, so on the expected-update objective the meta-gradient through it is
    biased; as the path derivative of the sampled update it is exact. Finn et al. (2017, arXiv:1703.03400).
    """
    advantage = jnp.where(trajectory.valid, advantage, 0)
    return -masked_mean(log_prob(policy, params, trajectory) * advantage, trajectory.valid)


def likelihood_ratio(policy: Policy, params: PyTree, trajectory: Trajectory, advantage: jax.Array) -> jax.Array:
    """−E_t[π_φ(a_t|s_t) / π_behaviour(a_t|s_t) · A_t], the mean over valid steps: low-variance curvature (LVC).

    On the behaviour policy's own data the ratio is 1 and its Hessian is a low-variance estimate of the expected
    return's. Rothfuss et al. (2019, arXiv:1810.06784), eq. 11.
    """
    advantage = jnp.where(trajectory.valid, advantage, 0)
    return -masked_mean(probability_ratio(policy, params, trajectory) * advantage, trajectory.valid)


SURROGATES = {"score_function": score_function, "likelihood_ratio": likelihood_ratio}
"""Surrogates by name."""
