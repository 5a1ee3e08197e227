"""Self-tuning: online meta-gradients in one long life."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from metarl_jax import checks, inner, outer, policies
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.compose import shared_parts
from metarl_jax.inner import HYPERPARAMETERS, Hyperparameters
from metarl_jax.keywords import by_keyword
from metarl_jax.lifelong import assemble_lives
from metarl_jax.options import LifeOptions

_OWN = ("credit", "credit_estimator", "surrogate", "advantage", "baseline", "fast_parameters", "std_lr")
_OWN += ("inner_lr_beyond", "stage_steps", "multi_step_iterations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTuningOptions(LifeOptions):
    """An actor-critic, and which of its hyperparameters are tuned while it learns."""

    tasks: int = 1
    """B, agents that live side by side, each in its own task"""
    tuned: Sequence[str] = HYPERPARAMETERS
    """hyperparameters that θ holds, of discount, lambda_, entropy_weight, value_weight, learning_rate"""
    discount: float = 0.95
    """γ of the agent, at the start where it is tuned"""
    lambda_: float = 0.95
    """λ of the agent, at the start where it is tuned"""
    entropy_weight: float = 0.01
    """weight of the entropy in the agent's loss, at the start where it is tuned"""
    value_weight: float = 0.5
    """weight of the values' squared error in the agent's loss, at the start where it is tuned"""
    inner_lr: float = 0.1
    """α, the rate of an agent's updates, at the start where it is tuned"""
    inner_optimizer: str = "sgd"
    normalized: bool = True
    """whether the advantages of a rollout are scaled to mean 0 and standard deviation 1"""
    outer_discount: float = 0.99
    """γ of the loss that θ is judged by"""
    outer_lambda: float = 0.95
    """λ of the loss that θ is judged by"""
    bootstrap: int = 0
    """steps to the bootstrapped target; 0 means the loss of the next rollout"""
    return_scale: float | None = None
    """typical size of a return, the unit of the critics; None means the horizon"""

    refused: ClassVar[Mapping[str, str]] = {
        **LifeOptions.refused,
        **dict.fromkeys(_OWN, "self-tuning has an actor-critic loss of its own"),
    }


@by_keyword(SelfTuningOptions)
def self_tuning(env: TaskEnv, options: SelfTuningOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ loss of the next rollout), θ an actor-critic's γ, λ, entropy and value weights, and learning rate.

    One agent lives on, or B `tasks` that share θ. θ moves after every L `adaptation_steps`, by the derivative of these
    updates, judged by the rollouts after them at the fixed `outer_discount` and `outer_lambda`; with `bootstrap`, by
    the distance to where so many more steps would lead (Flennerhag et al. 2022, arXiv:2109.04504). `discount`,
    `lambda_`, the weights and `inner_lr` are where those that are `tuned` start, and where the others stay.

    Xu, van Hasselt, Silver (2018, arXiv:1805.09801); Zahavy et al. (2020, arXiv:2002.12928).
    """
    if options.adaptation_steps == 0:
        raise ValueError("adaptation_steps is 0, so nothing would be tuned; take at least one update")
    start = Hyperparameters(
        options.discount,
        options.lambda_,
        options.entropy_weight,
        options.value_weight,
        checks.positive("inner_lr", options.inner_lr),
    )
    fixed = start._replace(
        discount=checks.share("outer_discount", options.outer_discount),
        lambda_=checks.share("outer_lambda", options.outer_lambda),
    )
    policy = policies.make_policy(env, options.policy)
    agent = inner.make_actor_critic(env, policy, fixed, options.return_scale, options.normalized)
    tuning = inner.tuning(start, options.tuned)
    rule = inner.self_tuning(agent, tuning, options.inner_optimizer)
    steps = checks.integer("bootstrap", options.bootstrap, least=0)
    loss = outer.bootstrapped(agent, tuning, rule, steps) if steps else outer.validation(agent, tuning)
    parts = shared_parts(
        env,
        options,
        policy=agent.policy,
        adapter=rule.adapter,
        advantage=agent.judge,
        objective=outer.nothing,
        trial=options.trial(env.horizon, burn_in=options.burn_in),
    )
    return assemble_lives(parts, outer.gradient_steps(options.descent()), penalty=loss)
