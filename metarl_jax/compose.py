"""What the named algorithms share: a `MetaAlgorithm` from an inner step, an objective and an outer optimiser."""

import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from metarl_jax import outer, policies
from metarl_jax.base import (
    AdvantageEstimator,
    InnerOptimizer,
    MetaAlgorithm,
    Objective,
    OuterOptimizer,
    Policy,
    Surrogate,
    TaskEnv,
    Trial,
)
from metarl_jax.checks import choose
from metarl_jax.inner import ADVANTAGES, SURROGATES, policy_gradient, sgd
from metarl_jax.types import MetaState, strongly_typed


def _advantage(advantage: str | AdvantageEstimator, **settings: float | None) -> AdvantageEstimator:
    given = {name: value for name, value in settings.items() if value is not None}
    if callable(advantage):
        if given:
            raise ValueError(f"advantage is a function, so it takes no {sorted(given)}; build them into the function")
        return advantage
    build = choose("advantage", advantage, ADVANTAGES)
    for setting in given:
        if setting not in inspect.signature(build).parameters:
            raise ValueError(f"advantage {advantage!r} takes no {setting}")
    return build(**given)


def compose(
    env: TaskEnv,
    *,
    objective: Objective,
    outer_optimizer: OuterOptimizer,
    surrogate: str | Surrogate,
    inner_optimizer: Callable[[float | Sequence[float]], InnerOptimizer] = sgd,
    inner_lr: float | Sequence[float] = 0.1,
    tasks: int = 20,
    episodes: int = 20,
    adaptation_steps: int = 1,
    burn_in: int | None = None,
    horizon: int | None = None,
    advantage: str | AdvantageEstimator = "gae",
    discount: float | None = None,
    lambda_: float | None = None,
    policy: Policy | None = None,
) -> MetaAlgorithm:
    """The product of an inner step, an objective and an outer optimiser; the named algorithms call this.

    Args:
        env: p(M) and its MDPs.
        objective: the outer loss along the path.
        outer_optimizer: how θ moves.
        surrogate: the inner loss, a name or a function.
        inner_optimizer: ``inner_lr → InnerOptimizer``.
        inner_lr: α, one rate, or one per inner step.
        tasks: B, tasks per meta-iteration.
        episodes: N, episodes per stage.
        adaptation_steps: L, inner steps.
        burn_in: stages that the objective does not count; None means L, so only the last counts.
        horizon: T, environment steps per episode; None means the environment's.
        advantage: the estimator of both loops, a name or a function of one task's trajectory.
        discount: γ of a named estimator; None means its default.
        lambda_: λ of a named estimator; None means its default.
        policy: π; None means `metarl_jax.policies.mlp(env)`.

    Raises:
        ValueError: a name is unknown or a value out of range.
    """
    policy = policies.mlp(env) if policy is None else policy
    parts = outer.Parts(
        env=env,
        policy=policy,
        adapter=policy_gradient(policy, choose("surrogate", surrogate, SURROGATES), inner_optimizer(inner_lr)),
        advantage=_advantage(advantage, discount=discount, lambda_=lambda_),
        objective=objective,
        trial=Trial(
            tasks=tasks,
            episodes=episodes,
            adaptation_steps=adaptation_steps,
            burn_in=burn_in,
            horizon=env.horizon if horizon is None else horizon,
        ),
    )
    meta_objective = outer.meta_objective(parts)

    def init(key):
        theta = strongly_typed(parts.adapter.init_meta(key))
        return MetaState(params=theta, opt_state=outer_optimizer.init(theta), iteration=jnp.zeros((), jnp.int32))

    def update(key, state):
        data = outer.collect_tasks(key, parts, state.params)
        theta, opt_state, metrics = outer_optimizer.update(meta_objective, state.params, state.opt_state, data)
        state = MetaState(params=theta, opt_state=opt_state, iteration=state.iteration + 1)
        return state, outer.describe(data) | metrics

    def gradient(key, theta):
        data = outer.collect_tasks(key, parts, theta)
        (loss, metrics), descent = jax.value_and_grad(meta_objective.loss, has_aux=True)(theta, data)
        ascent = jax.tree.map(jnp.negative, descent)
        return ascent, outer.describe(data) | metrics | {"loss": loss, "meta_gradient_norm": optax.tree.norm(ascent)}

    return MetaAlgorithm(init, update, lambda key, theta, task: outer.adapt(key, parts, theta, task), gradient)
