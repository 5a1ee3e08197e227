"""f_θ as policy-gradient steps: the adapter of the MAML family."""

import jax
from flax import struct

from metarl_jax.base import Adapter, InnerOptimizer, Policy, Surrogate
from metarl_jax.types import PyTree


@struct.dataclass
class Fast:
    """What one inner step passes to the next."""

    params: PyTree
    """φ"""
    opt_state: PyTree
    """state of the inner optimiser"""


def policy_gradient(policy: Policy, surrogate: Surrogate, optimizer: InnerOptimizer) -> Adapter:
    """φ_0 = θ, φ_{s+1} = φ_s − α ∇_φ surrogate(φ_s; D_s): every parameter of the policy is fast.

    Each task's gradient is of its own loss alone; nothing is averaged over tasks here.

    Finn et al. (2017, arXiv:1703.03400).
    """

    def learn(theta, fast, trajectory, advantage):
        del theta  # the steps start at θ (in `init`) and know nothing else of it
        gradient = jax.grad(lambda phi: surrogate(policy, phi, trajectory, advantage))(fast.params)
        return Fast(*optimizer.update(gradient, fast.opt_state, fast.params))

    return Adapter(
        init_meta=policy.init,
        init=lambda theta: Fast(theta, optimizer.init(theta)),
        params=lambda theta, fast: fast.params,
        learn=learn,
    )
