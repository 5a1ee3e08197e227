"""Self-tuning: online meta-gradients in one long life."""

from collections.abc import Sequence

from metarl_jax import checks, inner, outer
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.compose import build_parts
from metarl_jax.inner import HYPERPARAMETERS, Hyperparameters
from metarl_jax.lifelong import assemble_lives

WITHOUT = (
    *("credit", "credit_estimator", "surrogate", "advantage", "baseline", "fast_parameters"),
    *("std_lr", "inner_lr_beyond", "stage_steps", "multi_step_iterations"),
)


def self_tuning(
    env: TaskEnv,
    *,
    tasks: int = 1,
    tuned: Sequence[str] = HYPERPARAMETERS,
    discount: float = 0.95,
    lambda_: float = 0.95,
    entropy_weight: float = 0.01,
    value_weight: float = 0.5,
    inner_lr: float = 0.1,
    inner_optimizer: str = "sgd",
    normalized: bool = True,
    outer_discount: float = 0.99,
    outer_lambda: float = 0.95,
    bootstrap: int = 0,
    return_scale: float | None = None,
    **common,
) -> MetaAlgorithm:
    """θ ← Adam(∇_θ loss of the next rollout), θ an actor-critic's γ, λ, entropy and value weights, and learning rate.

    One agent lives on, or B `tasks` that share θ. θ moves after every L `adaptation_steps`, by the derivative of these
    updates, judged by the rollouts after them at the fixed `outer_discount` and `outer_lambda`; with `bootstrap`, by
    the distance to where so many more steps would lead (Flennerhag et al. 2022, arXiv:2109.04504). `discount`,
    `lambda_`, the weights and `inner_lr` are where those that are `tuned` start, and where the others stay.

    Xu, van Hasselt, Silver (2018, arXiv:1805.09801); Zahavy et al. (2020, arXiv:2002.12928).
    """
    step, common = outer.take_descent(common)
    common = checks.without(WITHOUT, common, "self-tuning has an actor-critic loss of its own")
    if common.get("adaptation_steps") == 0:
        raise ValueError("adaptation_steps is 0, so nothing would be tuned; take at least one update")
    common |= {"burn_in": 1} if common.get("burn_in") is None else {}
    start = Hyperparameters(discount, lambda_, entropy_weight, value_weight, checks.positive("inner_lr", inner_lr))
    shares = checks.share("outer_discount", outer_discount), checks.share("outer_lambda", outer_lambda)
    fixed = start._replace(discount=shares[0], lambda_=shares[1])
    common["baseline"] = "zero"  # the agent has critics of its own
    parts = build_parts(env, objective=outer.nothing, tasks=tasks, inner_optimizer=inner_optimizer, **common)
    agent = inner.make_actor_critic(env, parts.policy, fixed, return_scale, normalized)
    tuning = inner.tuning(start, tuned)
    rule = inner.self_tuning(agent, tuning, inner_optimizer)
    steps = checks.integer("bootstrap", bootstrap, least=0)
    loss = outer.bootstrapped(agent, tuning, rule, steps) if steps else outer.validation(agent, tuning)
    parts = parts._replace(policy=agent.policy, adapter=rule.adapter, longer=None, advantage=agent.judge)
    return assemble_lives(parts, outer.gradient_steps(step), penalty=loss)
