"""LPG: the update rule itself is learned, from agents that live long."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from metarl_jax import inner, outer, policies
from metarl_jax.base import AdvantageEstimator, MetaAlgorithm, TaskEnv
from metarl_jax.compose import shared_parts
from metarl_jax.inner.rates import Rate
from metarl_jax.inner.resolve import resolve_advantage
from metarl_jax.keywords import by_keyword
from metarl_jax.lifelong import assemble_lives
from metarl_jax.options import LifeOptions

_LEARNED = ("credit", "credit_estimator", "surrogate", "fast_parameters", "inner_lr_beyond", "entropy_weight")
_LEARNED += ("stage_steps", "multi_step_iterations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LpgOptions(LifeOptions):
    """A learned rule, and agents that live by it."""

    adaptation_steps: int = 5
    discount: float = 0.99
    std_lr: Rate | None = None
    """α of the policy's standard deviation; None means `inner_lr`"""
    advantage: str | AdvantageEstimator = "gae"
    """estimator of the outer loss: "gae", "returns", or a function of one task's trajectory"""
    baseline: str | inner.Baseline | None = None
    """V that "gae" subtracts, see `maml`"""
    max_gradient_norm: float | None = 0.5
    max_agent_gradient_norm: float | None = None
    """norm that one agent's outer gradient is scaled down to, before the mean over agents; None leaves it"""
    lifetime: int | None = 500
    """updates after which an agent is renewed; None means never"""
    rule_size: int = 64
    """LSTM units of the rule"""
    prediction_size: int = 30
    """categories of an agent's prediction vector y"""
    prediction_weight: float = 0.5
    """α_y, weight of the predictions' KL divergence in an update"""
    policy_entropy_weight: float = 0.01
    """outer weight of the policy's entropy after the updates"""
    prediction_entropy_weight: float = 1e-3
    """outer weight of the predictions' entropy after the updates"""
    policy_target_weight: float = 1e-3
    """outer weight of the squared policy targets"""
    prediction_target_weight: float = 1e-3
    """outer weight of the squared prediction targets"""

    refused: ClassVar[Mapping[str, str]] = {
        **LifeOptions.refused,
        **dict.fromkeys(_LEARNED, "lpg learns all of the inner update and has weights of its own"),
    }


@by_keyword(LpgOptions)
def lpg(env: TaskEnv, options: LpgOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ_1) + … + R(φ_L)] / L), φ ← φ − α ∇(−log π(a|s) π̂ + α_y KL(y(s) ‖ ŷ)); θ emits π̂ and ŷ.

    `tasks` agents live on from one meta-iteration to the next, each in its own task for `lifetime` updates; a window of
    `adaptation_steps` of them is differentiated, and all stages from `burn_in` on count. A stage is `horizon` steps of
    `episodes` environments that go on where they stopped. θ is an LSTM of `rule_size` units over a rollout read
    backwards; `prediction_size` is that of y, whose layers are those of a π given by options; `prediction_weight` is
    α_y, `inner_lr` α; the last four weights are those of `metarl_jax.inner.lpg_penalty`. `max_agent_gradient_norm`
    limits an agent's own gradient, before their mean. `adapt` is a life of L updates from a newborn, L of any size.

    Oh, Hessel, Czarnecki, Xu, van Hasselt, Singh, Silver (2020, arXiv:2007.08794).
    """
    own = policies.make_policy(env, options.policy)
    sizes = options.policy if isinstance(options.policy, Mapping) else {}
    agent = inner.learned_rule(env, own, options.rule_size, options.prediction_size, options.discount, sizes)
    rule = options.inner_optimizer, options.inner_lr, options.std_lr, options.adaptation_steps, options.baseline
    optimizer = inner.rule_optimizer(agent.policy, *rule)
    adapter = inner.lpg(agent, optimizer, options.prediction_weight)
    trial = options.trial(env.horizon, burn_in=options.burn_in)
    factors = {"discount": options.discount, "lambda_": options.lambda_, "normalized": options.normalized}
    if callable(options.advantage):
        del factors["discount"]  # it is the rule's; a function brings its own
    advantage = resolve_advantage(env, trial, options.advantage, options.baseline, **factors).estimate
    learned = {"policy": agent.policy, "adapter": adapter}
    parts = shared_parts(env, options, **learned, advantage=advantage, objective=outer.ratio(), trial=trial)
    weights = (
        options.policy_entropy_weight,
        options.prediction_entropy_weight,
        options.policy_target_weight,
        options.prediction_target_weight,
    )
    return assemble_lives(
        parts,
        outer.gradient_steps(options.descent()),
        lifetime=options.lifetime,
        penalty=inner.lpg_penalty(agent, *weights),
        max_agent_gradient_norm=options.max_agent_gradient_norm,
    )
