"""A critic beside the policy: φ then is {"policy", "critic"}, and both loops see one tree of parameters."""

from collections.abc import Callable

import jax

from metarl_jax.base import Policy, Surrogate
from metarl_jax.inner.critics import Critic
from metarl_jax.types import PyTree, Trajectory


def actor_critic(policy: Policy, critic: Critic) -> Policy:
    """The policy, with the critic's parameters beside its own; they are labelled "critic"."""

    def init(key):
        policy_key, critic_key = jax.random.split(key)
        return {"policy": policy.init(policy_key), "critic": critic.init(critic_key)}

    def labels(params):
        own = policy.labels or (lambda phi: jax.tree.map(lambda _: "body", phi))
        return {"policy": own(params["policy"]), "critic": jax.tree.map(lambda _: "critic", params["critic"])}

    return Policy(init, lambda params, observation: policy.apply(params["policy"], observation), labels)


def critic_loss(critic: Critic, discount: float) -> Callable[[PyTree, Trajectory], jax.Array]:
    """``(φ, trajectory) → scalar``: the critic's own loss, of the parameters of `actor_critic`.

    Raises:
        ValueError: the critic is not learned by gradient.
    """
    loss = critic.loss
    if loss is None:
        raise ValueError("this critic has no loss; it is fitted, not learned by gradient")
    return lambda params, trajectory: loss(params["critic"], trajectory, discount)


def with_critic_loss(surrogate: Surrogate, loss: Callable[[PyTree, Trajectory], jax.Array], weight: float) -> Surrogate:
    """surrogate + weight · loss: an inner step that adapts the critic too. α·weight is the critic's inner rate."""

    def total(policy, params, trajectory, advantage):
        return surrogate(policy, params, trajectory, advantage) + weight * loss(params, trajectory)

    return total
