"""LPG: the update rule itself is learned, from agents that live long."""

from collections.abc import Callable, Mapping
from typing import Any

from metarl_jax import checks, inner, outer, policies
from metarl_jax.base import InnerOptimizer, MetaAlgorithm, Policy, TaskEnv
from metarl_jax.compose import build_parts
from metarl_jax.inner.rates import Rate
from metarl_jax.lifelong import assemble_lives

WITHOUT = ("credit", "credit_estimator", "surrogate", "fast_parameters", "inner_lr_beyond", "entropy_weight")
WITHOUT += ("stage_steps", "multi_step_iterations")


def lpg(
    env: TaskEnv,
    *,
    adaptation_steps: int = 5,
    burn_in: int = 1,
    inner_optimizer: str | Callable[[Rate], InnerOptimizer] = "sgd",
    inner_lr: Rate = 0.1,
    std_lr: Rate | None = None,
    discount: float = 0.99,
    policy: Policy | Mapping[str, Any] | None = None,
    max_gradient_norm: float | None = 0.5,
    max_agent_gradient_norm: float | None = None,
    lifetime: int | None = 500,
    rule_size: int = 64,
    prediction_size: int = 30,
    prediction_weight: float = 0.5,
    policy_entropy_weight: float = 0.01,
    prediction_entropy_weight: float = 1e-3,
    policy_target_weight: float = 1e-3,
    prediction_target_weight: float = 1e-3,
    **common,
) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ_1) + … + R(φ_L)] / L), φ ← φ − α ∇(−log π(a|s) π̂ + α_y KL(y(s) ‖ ŷ)); θ emits π̂ and ŷ.

    `tasks` agents live on from one meta-iteration to the next, each in its own task for `lifetime` updates; a window of
    `adaptation_steps` of them is differentiated, and all stages from `burn_in` on count. A stage is `horizon` steps of
    `episodes` environments that go on where they stopped. θ is an LSTM of `rule_size` units over a rollout read
    backwards; `prediction_size` is that of y, whose layers are those of a π given by options; `prediction_weight` is
    α_y, `inner_lr` α; the last four weights are those of `metarl_jax.inner.lpg_penalty`. `max_agent_gradient_norm`
    limits an agent's own gradient, before their mean. `adapt` is a life of L updates from a newborn, L of any size.

    Oh, Hessel, Czarnecki, Xu, van Hasselt, Singh, Silver (2020, arXiv:2007.08794).
    """
    step, common = outer.take_descent(common | {"max_gradient_norm": max_gradient_norm})
    common = checks.without(WITHOUT, common, "lpg learns all of the inner update and has weights of its own")
    own, sizes = policies.make_policy(env, policy), policy if isinstance(policy, Mapping) else {}
    agent = inner.learned_rule(env, own, rule_size, prediction_size, discount, sizes)
    optimizer = inner.rule_optimizer(agent.policy, inner_optimizer, inner_lr, std_lr, adaptation_steps, common)
    own_discount = {} if callable(common.get("advantage")) else {"discount": discount}
    common |= {"adaptation_steps": adaptation_steps, "burn_in": burn_in} | own_discount
    parts = build_parts(env, objective=outer.ratio(), policy=agent.policy, **common)
    parts = parts._replace(adapter=inner.lpg(agent, optimizer, prediction_weight), longer=None)
    weights = (policy_entropy_weight, prediction_entropy_weight, policy_target_weight, prediction_target_weight)
    more = {"penalty": inner.lpg_penalty(agent, *weights), "max_agent_gradient_norm": max_agent_gradient_norm}
    return assemble_lives(parts, outer.gradient_steps(step), lifetime=lifetime, **more)
