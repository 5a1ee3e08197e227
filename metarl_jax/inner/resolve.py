"""Turns the options of the inner loop into its parts: estimator, baseline, rates. Refuses options that conflict."""

import inspect
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from metarl_jax import checks
from metarl_jax.base import AdvantageEstimator, InnerOptimizer, Policy, ScaledEstimator
from metarl_jax.checks import choose
from metarl_jax.inner.advantages import ADVANTAGES, Estimator, returns
from metarl_jax.inner.advantages import estimate as estimate_advantage
from metarl_jax.inner.critics import Critic, choose_baseline, make_baseline
from metarl_jax.inner.optimizers import by_label, frozen
from metarl_jax.inner.rates import Rate
from metarl_jax.inner.returns import as_at_start
from metarl_jax.observations import shapes_of
from metarl_jax.types import Number, PyTree, Trajectory

FastParameters = str | Callable[[PyTree], PyTree]
MOVING = {"head": {"head", "std"}, "context": {"context"}}
"""What an inner loop that does not move everything moves, by the labels of `metarl_jax.base.Policy.labels`."""


class ResolvedAdvantage(NamedTuple):
    """An estimator, and what the assembly must know of it."""

    estimate: ScaledEstimator
    critic: Critic | None
    discount: Number | None
    """γ; None: a user's function, which does not say"""


def resolve_advantage(env, trial, advantage, baseline, discount_states=False, **settings) -> ResolvedAdvantage:
    """The estimator that the assembly runs, and the critic that it needs, if any.

    A baseline by name, or by default, is one that the sizes of `trial` bear, see `metarl_jax.inner.choose_baseline`.
    """
    resolved = _resolve_plain(env, trial, advantage, baseline, **settings)
    if not discount_states:
        return resolved
    if resolved.discount is None:
        raise ValueError(
            "discount_states is True, and advantage is a function whose γ is unknown; give it an attribute `discount`, "
            "as metarl_jax.inner.returns(γ) has one, or multiply by γᵗ in the function and leave discount_states out"
        )
    gamma = resolved.discount

    def estimate(params: PyTree, trajectory: Trajectory):
        advantage, scale = resolved.estimate(params, trajectory)
        return as_at_start(advantage, gamma), scale

    return resolved._replace(estimate=estimate)


def _resolve_plain(env, trial, advantage, baseline, **settings) -> ResolvedAdvantage:
    given = {name: value for name, value in (settings | {"baseline": baseline}).items() if value is not None}
    if callable(advantage):
        if given:
            raise ValueError(f"advantage is a function, so it takes no {sorted(given)}; build them into the function")
        own = cast(AdvantageEstimator, advantage)
        # A user's function, or a user's class that overrides the call, does not say its divisor: it is taken as it is.
        told = cast(Estimator, own).scaled if type(own) is Estimator else None
        scaled = told or (lambda trajectory: (own(trajectory), jnp.ones(())))
        return ResolvedAdvantage(lambda _, trajectory: scaled(trajectory), None, discount_of(own))
    parameters = inspect.signature(choose("advantage", advantage, ADVANTAGES)).parameters
    for setting in given:
        if setting not in parameters:
            raise ValueError(f"advantage {advantage!r} takes no {setting}; leave {setting} out, or choose 'gae'")
    settings = {name: given.get(name, parameter.default) for name, parameter in parameters.items()}
    if advantage == "returns":
        estimator = returns(**settings)
        discount = settings["discount"]
        return ResolvedAdvantage(lambda params, trajectory: (estimator(trajectory), jnp.ones(())), None, discount)
    discount, lambda_ = checks.share("discount", settings["discount"]), checks.share("lambda_", settings["lambda_"])
    normalized = checks.boolean("normalized", settings["normalized"])
    source = settings["baseline"]
    if source is None or isinstance(source, str):
        source = choose_baseline(source, env.observation_size, trial)
    source = make_baseline(source, shapes_of(env), trial.horizon)
    critic = source if isinstance(source, Critic) else None

    def estimate(params: PyTree, trajectory: Trajectory):
        if isinstance(source, Critic):
            values = source.values(params.critic, trajectory, discount)
        else:
            values = source(trajectory, discount)
        return estimate_advantage(trajectory, values, discount, lambda_, normalized)

    return ResolvedAdvantage(estimate, critic, discount)


def discount_of(advantage: AdvantageEstimator) -> float | None:
    """γ of an estimator that says it in an attribute `discount`, as those of `metarl_jax.inner` do.

    Raises:
        ValueError: the attribute is no number in [0, 1].
    """
    told = getattr(advantage, "discount", None)
    return None if told is None else checks.share("discount of the advantage", told)


def labels_of(policy: Policy) -> set[str]:
    """The labels that a policy gives its parameters.

    Raises:
        ValueError: they are no tree like φ.
    """
    if policy.labels is None:
        return set()
    params = jax.eval_shape(policy.init, jax.random.key(0))
    labels = policy.labels(params)
    if jax.tree.structure(labels) != jax.tree.structure(params):
        raise ValueError(
            f"labels of the policy returns {labels!r}; it must be a tree like φ, with a word for every array"
        )
    return set(jax.tree.leaves(labels))


def resolve_optimizer(
    policy: Policy,
    build: Callable[[Rate], InnerOptimizer],
    inner_lr: Rate,
    fast_parameters: FastParameters,
    std_lr: Rate | None,
    critic: Critic | None,
) -> InnerOptimizer:
    """One optimiser for every parameter, or one by label where something moves differently or not at all."""
    optimizer, existing = build(inner_lr), labels_of(policy)
    if isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "inner_optimizer returned an optax transformation; wrap it, as in "
            "lambda inner_lr: mrl.inner.from_optax(optax.adam(inner_lr))"
        )
    if not isinstance(optimizer, InnerOptimizer):
        raise ValueError("inner_optimizer must be a function inner_lr → InnerOptimizer, and returned something else")
    groups: dict[str, InnerOptimizer] = {}
    labels: Callable[[PyTree], PyTree] | None = policy.labels
    otherwise = optimizer
    if callable(fast_parameters):
        labels = _chosen_labels(policy, fast_parameters, critic)
        groups["frozen"] = frozen()
    elif fast_parameters != "all":
        moving = choose("fast_parameters", fast_parameters, {"all": None, **MOVING})
        if fast_parameters not in existing:
            raise ValueError(
                f"fast_parameters is {fast_parameters!r}, but the policy labels none of its parameters so; "
                + ("make it with context_size=5" if fast_parameters == "context" else "use a policy with labels")
                + ", or choose 'all'"
            )
        groups |= dict.fromkeys(moving & existing, optimizer)
        if critic is not None and critic.inner_weight:
            groups["critic"] = optimizer
        otherwise = frozen()
    if std_lr is not None:
        if "std" not in existing:
            raise ValueError(
                f"std_lr is {std_lr!r}, but the policy labels no learned standard deviation, as a categorical one or a "
                "beta has none; leave std_lr out"
            )
        if fast_parameters == "context":
            raise ValueError(f"std_lr is {std_lr!r}, but the inner steps move the context alone; leave std_lr out")
        if callable(fast_parameters) and "std" not in labels_of(policy._replace(labels=labels)):
            raise ValueError(
                f"std_lr is {std_lr!r}, but fast_parameters leaves out the standard deviation; leave it out"
            )
        try:
            groups["std"] = build(std_lr)
        except ValueError as error:
            raise ValueError(str(error).replace("inner_lr", "std_lr")) from error
    if critic is not None and not critic.inner_weight:
        groups["critic"] = frozen()
    return by_label(labels, groups, otherwise) if groups and labels else optimizer


def _chosen_labels(policy: Policy, chosen: Callable[[PyTree], PyTree], critic: Critic | None):
    """The policy's labels, "frozen" where `chosen` says so; a critic's parameters are not asked about."""

    def moving(params):
        if critic is None:
            return chosen(params)
        return params.replace(policy=chosen(params.policy), critic=jax.tree.map(lambda _: True, params.critic))

    shapes = jax.eval_shape(policy.init, jax.random.key(0))
    moves = moving(shapes)
    if jax.tree.structure(moves) != jax.tree.structure(shapes):
        raise ValueError("fast_parameters must return a tree like φ, with True or False for every array")
    if not any(jax.tree.leaves(moves if critic is None else moves.policy)):
        raise ValueError("fast_parameters chooses nothing, so no inner step would move the policy")

    def labels(params):
        names = policy.labels(params) if policy.labels else jax.tree.map(lambda _: "", params)
        return jax.tree.map(lambda name, moves: name if moves else "frozen", names, moving(params))

    return labels
