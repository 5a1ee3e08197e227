"""Policy and critic in one parameter tree, for both loops."""

from collections.abc import Callable

import jax
from flax import struct

from metarl_jax.base import Policy, Surrogate
from metarl_jax.inner.critics import Critic
from metarl_jax.types import Number, PyTree, Trajectory


@struct.dataclass
class ActorCriticParams:
    """φ of a policy with a critic."""

    critic: PyTree
    policy: PyTree


def actor_critic(policy: Policy, critic: Critic) -> Policy:
    """Adds the critic's parameters to the policy's, with the label "critic"."""

    def init(key):
        policy_key, critic_key = jax.random.split(key)
        return ActorCriticParams(policy=policy.init(policy_key), critic=critic.init(critic_key))

    def labels(params):
        policy_labels = policy.labels or (lambda phi: jax.tree.map(lambda _: "body", phi))
        of_critic = jax.tree.map(lambda _: "critic", params.critic)
        return ActorCriticParams(policy=policy_labels(params.policy), critic=of_critic)

    return Policy(init, lambda params, observation: policy.apply(params.policy, observation), labels)


def critic_loss(critic: Critic, discount: Number) -> Callable[[PyTree, Trajectory], jax.Array]:
    """``(φ, trajectory) → scalar``: the critic's loss as a function of the parameters of `actor_critic`.

    Raises:
        ValueError: the critic is not learned by gradient.
    """
    loss = critic.loss
    if loss is None:
        raise ValueError("this critic has no loss; it is fitted, not learned by gradient")
    return lambda params, trajectory: loss(params.critic, trajectory, discount)


def with_critic_loss(
    surrogate: Surrogate, loss: Callable[[PyTree, Trajectory], jax.Array], weight: Number
) -> Surrogate:
    """surrogate + weight · loss, so that inner steps adapt the critic too; its effective inner rate is α·weight."""

    def total(policy, params, trajectory, advantage):
        return surrogate(policy, params, trajectory, advantage) + weight * loss(params, trajectory)

    return total
