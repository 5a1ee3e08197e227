"""Policies that play the mode of their distribution, to measure what they do without exploration."""

from typing import Any, TypeVar

import jax

from metarl_jax.base import Policy, RecurrentPolicy
from metarl_jax.policies.likelihood import required

AnyPolicy = TypeVar("AnyPolicy", Policy, RecurrentPolicy)


class AtMode:
    """A distribution whose `sample` is its mode, for any key; `log_prob` is its own."""

    def __init__(self, distribution: Any):
        self._mode, self.log_prob = required(distribution, "mode", "deterministic"), distribution.log_prob

    def sample(self, key: jax.Array) -> jax.Array:
        """The mode."""
        return self._mode()


def at_mode(policy: AnyPolicy) -> AnyPolicy:
    """The policy that plays the mode of its distribution instead of a sample; for `metarl_jax.rollout`, not to train.

    The `log_prob` of its data is that of the mode under the distribution, so no ratio or score of them means anything.

    Args:
        policy: with or without a memory.

    Raises:
        ValueError: (when it acts) the distribution has no method `mode`.
    """
    if isinstance(policy, RecurrentPolicy):
        act_by_sample = policy.act

        def act(params, memory, observation):
            distribution, value = act_by_sample(params, memory, observation)
            return AtMode(distribution), value

        return policy._replace(act=act)
    apply = policy.apply
    return policy._replace(apply=lambda params, observation: AtMode(apply(params, observation)))
