"""f_θ as policy-gradient steps: the adapter of the MAML family."""

import dataclasses

import jax
from flax import struct

from metarl_jax.base import Adapter, InnerOptimizer, Policy, Surrogate
from metarl_jax.inner.surrogates import OfLogProb
from metarl_jax.normalization import Normalized
from metarl_jax.policies.likelihood import distributions, log_prob
from metarl_jax.types import PyTree, Theta, strongly_typed


@struct.dataclass
class Fast:
    """State carried from one inner step to the next."""

    params: PyTree
    """φ"""
    opt_state: PyTree
    """state of the inner optimiser"""


def policy_of(theta: PyTree) -> PyTree:
    """φ_0, the policy's part of θ; where an algorithm normalises, with the statistics, which its φ holds too."""
    if isinstance(theta, Normalized):
        return dataclasses.replace(theta, params=policy_of(theta.params))
    return theta.policy if isinstance(theta, Theta) else theta


def with_policy(theta: PyTree, params: PyTree) -> PyTree:
    """θ with φ_0 replaced."""
    if isinstance(theta, Normalized):
        return dataclasses.replace(params, params=with_policy(theta.params, params.params))
    return Theta(policy=params, inner=theta.inner) if isinstance(theta, Theta) else params


def policy_gradient(policy: Policy, surrogate: Surrogate, optimizer: InnerOptimizer) -> Adapter:
    """φ_0 = θ, φ_{s+1} = φ_s − U(∇_φ surrogate(φ_s; D_s)), with the optimiser's update U.

    The gradient is that of one task's loss; nothing is averaged over tasks here. If the optimiser has meta-learned
    parameters, θ is a `metarl_jax.types.Theta`; otherwise θ is the policy's parameters.

    Finn et al. (2017, arXiv:1703.03400).
    """
    init_learned = optimizer.init_learned

    def init_meta(key):
        params = strongly_typed(policy.init(key))  # a leaf may be a Python number, but learned rates need its shape
        return params if init_learned is None else Theta(policy=params, inner=init_learned(params))

    def init(theta):
        start = policy_of(theta)
        return Fast(start, optimizer.init(start))

    def learn_seeing(theta, fast, trajectory, advantage):
        def loss(phi):
            if not isinstance(surrogate, OfLogProb):
                return surrogate(policy, phi, trajectory, advantage), None
            pi = distributions(policy, phi, trajectory)
            return surrogate.function(log_prob(policy, phi, trajectory, pi), trajectory, advantage), pi

        learned = () if init_learned is None else theta.inner
        gradient, pi = jax.grad(loss, has_aux=True)(fast.params)
        return Fast(*optimizer.update(gradient, fast.opt_state, fast.params, learned)), pi

    def learn(theta, fast, trajectory, advantage):
        return learn_seeing(theta, fast, trajectory, advantage)[0]

    return Adapter(init_meta, init, lambda theta, fast: fast.params, learn, learn_seeing=learn_seeing)
