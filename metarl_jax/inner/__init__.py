"""f_θ: baselines, advantages, surrogates, inner optimisers and adapters. All functions handle one task."""

from metarl_jax.inner.actor_critic import actor_critic, critic_loss, with_critic_loss
from metarl_jax.inner.adapter import Fast, policy_gradient, policy_of, with_policy
from metarl_jax.inner.advantages import ADVANTAGES, Estimator, estimate, gae, gae_of_values, normalize, returns
from metarl_jax.inner.baselines import Baseline, FittedBaseline, leave_one_out, linear_feature, linear_time, zero
from metarl_jax.inner.critics import (
    BASELINES,
    Critic,
    choose_baseline,
    is_critic,
    make_baseline,
    previous_fit,
    value_network,
)
from metarl_jax.inner.lpg import LearnedRule, learned_rule, lpg, lpg_penalty, rule_optimizer, with_predictions
from metarl_jax.inner.optax_rules import from_optax
from metarl_jax.inner.optimizers import (
    INNER_OPTIMIZERS,
    adam,
    by_label,
    clipped,
    curvature,
    first_order,
    frozen,
    learned_rates,
    momentum,
    rmsprop,
    sgd,
)
from metarl_jax.inner.rates import BEYOND, falling, given_steps, taken
from metarl_jax.inner.returns import reward_to_go
from metarl_jax.inner.self_tuning import HYPERPARAMETERS, Hyperparameters, make_actor_critic, self_tuning, tuning
from metarl_jax.inner.surrogates import SURROGATES, dice, likelihood_ratio, loaded_dice, score_function

__all__ = [
    "ADVANTAGES",
    "BASELINES",
    "BEYOND",
    "HYPERPARAMETERS",
    "INNER_OPTIMIZERS",
    "SURROGATES",
    "Baseline",
    "Critic",
    "Estimator",
    "Fast",
    "FittedBaseline",
    "Hyperparameters",
    "LearnedRule",
    "actor_critic",
    "adam",
    "by_label",
    "choose_baseline",
    "clipped",
    "critic_loss",
    "curvature",
    "dice",
    "estimate",
    "falling",
    "first_order",
    "from_optax",
    "frozen",
    "gae",
    "gae_of_values",
    "given_steps",
    "is_critic",
    "learned_rates",
    "learned_rule",
    "leave_one_out",
    "likelihood_ratio",
    "linear_feature",
    "linear_time",
    "loaded_dice",
    "lpg",
    "lpg_penalty",
    "make_actor_critic",
    "make_baseline",
    "momentum",
    "normalize",
    "policy_gradient",
    "policy_of",
    "previous_fit",
    "returns",
    "reward_to_go",
    "rmsprop",
    "rule_optimizer",
    "score_function",
    "self_tuning",
    "sgd",
    "taken",
    "tuning",
    "value_network",
    "with_critic_loss",
    "with_policy",
    "with_predictions",
    "zero",
]
