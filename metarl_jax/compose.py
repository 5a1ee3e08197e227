"""The assembly of gradient-based algorithms from an inner step, an objective and an outer optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks, inner, outer, policies
from metarl_jax.base import (
    Adapter,
    InnerOptimizer,
    MetaAlgorithm,
    MetaObjective,
    Objective,
    OuterOptimizer,
    Policy,
    ScaledEstimator,
    Surrogate,
    TaskEnv,
    Trial,
)
from metarl_jax.checks import choose
from metarl_jax.entry import entry_points
from metarl_jax.inner.resolve import labels_of, resolve_advantage, resolve_optimizer
from metarl_jax.keywords import by_keyword, narrowed
from metarl_jax.options import GradientOptions, InnerOptions, TrialOptions
from metarl_jax.types import AVERAGES, MetaState, Number, PyTree, Trajectory, strongly_typed


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartsOptions(GradientOptions):
    """What `build_parts` takes."""

    objective: Objective
    """the outer loss along the adaptation path"""

    def wrapped(self, build: Callable[[TaskEnv, Any], Any], env: TaskEnv) -> Any:
        """``build(env, self)``: parts are no algorithm, so there is nothing to wrap."""
        for name in ("normalize_observations", "normalize_rewards", "task_sampler"):
            if getattr(self, name):
                raise ValueError(f"{name} is an option of a whole algorithm, and these are parts; leave {name} out")
        return build(env, self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComposeOptions(PartsOptions):
    """What `compose` takes."""

    outer_optimizer: OuterOptimizer
    """how θ moves"""

    wrapped = GradientOptions.wrapped


def shared_parts(
    env: TaskEnv,
    options: TrialOptions,
    *,
    policy: Policy,
    adapter: Adapter,
    advantage: ScaledEstimator,
    objective: Objective,
    trial: Trial,
) -> outer.Parts:
    """The parts that all algorithms with an `Adapter` have: gradient steps, learned rules and lifelong agents."""
    if options.task_chunk is not None:
        checks.integer("task_chunk", options.task_chunk)
    remat = checks.boolean("remat", options.remat)
    return outer.Parts(
        env=env,
        policy=policy,
        adapter=adapter,
        advantage=advantage,
        objective=objective,
        trial=trial,
        memory=outer.Memory(remat, options.task_chunk, trial.episodes * trial.horizon),
        average=checks.one_of("average", options.average, AVERAGES),
    )


def gradient_parts(env: TaskEnv, options: InnerOptions, objective: Objective, credit_clip: Number = 0.3) -> outer.Parts:
    """The parts of an algorithm with policy-gradient steps. Options missing from its struct keep their defaults.

    Args:
        env: p(M) and its MDPs.
        options: of the algorithm.
        objective: the loss of a task's path, to which those that options ask for are added.
        credit_clip: ε of the score term, see `metarl_jax.outer.credit`.

    Raises:
        ValueError: a name is unknown, a value out of range, or two options do not go together.
    """
    options = narrowed(GradientOptions, options)
    policy = policies.make_policy(env, options.policy)
    trial = options.trial(env.horizon, burn_in=options.burn_in, stage_steps=options.stage_steps)
    discount_states = checks.boolean("discount_states", options.discount_states)
    estimator = resolve_advantage(
        env,
        trial,
        options.advantage,
        options.baseline,
        discount_states,
        discount=options.discount,
        lambda_=options.lambda_,
        normalized=options.normalized,
    )
    gamma = 1.0 if estimator.discount is None else estimator.discount
    surrogate: Surrogate = choose("surrogate", options.surrogate, inner.SURROGATES)
    critic, refit = estimator.critic, None
    if critic is not None:
        policy = inner.actor_critic(policy, critic)
        if critic.loss is not None:
            loss = inner.critic_loss(critic, gamma)
            objective = outer.add(objective, outer.critic_error(loss, critic.outer_weight))
            if critic.inner_weight:
                surrogate = inner.with_critic_loss(surrogate, loss, critic.inner_weight)
        refit = _refit(critic, gamma)
    objective, credit = _with_credit(options, trial, objective, credit_clip)
    if checks.is_on(checks.non_negative("entropy_weight", options.entropy_weight)):
        objective = outer.add(objective, outer.entropy_bonus(options.entropy_weight))
    _check_leave_one_out(options, trial)
    optimizer, longer = _inner_optimizers(policy, options, trial, critic)
    shared = shared_parts(
        env,
        options,
        policy=policy,
        adapter=inner.policy_gradient(policy, surrogate, optimizer),
        advantage=estimator.estimate,
        objective=objective,
        trial=trial,
    )
    return shared._replace(
        longer=inner.policy_gradient(policy, surrogate, longer),
        refit=refit,
        credit=credit,
        discount=gamma if discount_states else 1.0,
        multi_step_iterations=options.multi_step_iterations,
    )


def _with_credit(options: GradientOptions, trial: Trial, objective: Objective, clip: Number) -> tuple[Objective, str]:
    """The objective with the score term, and the name of the term's estimator."""
    credit = options.credit
    outer.check_annealing(options.multi_step_iterations, trial, credit)
    weight = float(credit) if isinstance(credit, bool) else checks.non_negative("credit", credit)
    if not checks.is_on(weight):
        if options.credit_estimator != "return":
            raise ValueError(
                f"credit_estimator is {options.credit_estimator!r}, without credit; leave it out, or set credit too"
            )
        return objective, "return"
    if trial.adaptation_steps == 0:
        raise ValueError(
            "credit is for what a stage does for later ones, and with adaptation_steps=0 there is one stage only; "
            "leave credit out, or take at least one inner step"
        )
    estimator = checks.one_of("credit_estimator", options.credit_estimator, outer.CREDITS)
    return outer.add(objective, outer.credit(weight, clip)), estimator


def _check_leave_one_out(options: GradientOptions, trial: Trial) -> None:
    if options.baseline != "leave_one_out":
        return
    if trial.episodes < 2:
        raise ValueError("baseline 'leave_one_out' fits to the other episodes, and episodes is 1; take at least 2")
    if trial.stage_steps is not None and trial.stage_steps <= trial.horizon:
        raise ValueError(
            f"stage_steps is {trial.stage_steps}, one episode, and 'leave_one_out' fits to the others; take more"
        )


def _inner_optimizers(
    policy: Policy, options: GradientOptions, trial: Trial, critic: inner.Critic | None
) -> tuple[InnerOptimizer, InnerOptimizer]:
    """The optimiser of training's inner steps, and that of `adapt` with more steps than training takes."""
    if isinstance(options.inner_optimizer, InnerOptimizer):
        raise ValueError("inner_optimizer is an optimizer already; hand in a function inner_lr → InnerOptimizer")
    build = choose("inner_optimizer", options.inner_optimizer, inner.INNER_OPTIMIZERS)
    rates = options.inner_lr, options.fast_parameters, options.std_lr, critic
    optimizer = resolve_optimizer(policy, build, *rates)
    checks.one_of("inner_lr_beyond", options.inner_lr_beyond, inner.BEYOND)

    def build_longer(rate):  # every group of parameters goes on from its own last rate
        return inner.falling(build(rate), inner.given_steps(trial.adaptation_steps, rate), options.inner_lr_beyond)

    return optimizer, resolve_optimizer(policy, build_longer, *rates)


@by_keyword(PartsOptions, "build_parts")
def build_parts(env: TaskEnv, options: PartsOptions) -> outer.Parts:
    """The parts of an algorithm with policy-gradient steps and your own outer loss.

    Raises:
        ValueError: a name is unknown, a value out of range, or two options do not go together.
    """
    return gradient_parts(env, options, options.objective)


def _refit(critic: inner.Critic, discount: Number):
    fit = critic.refit
    if fit is None:
        return None

    def refit(theta: PyTree, trajectory: Trajectory) -> PyTree:
        params = inner.policy_of(theta)
        return inner.with_policy(theta, params.replace(critic=fit(params.critic, trajectory, discount)))

    return refit


def assemble(
    parts: outer.Parts, outer_optimizer: OuterOptimizer, meta_objective: MetaObjective | None = None
) -> MetaAlgorithm:
    """An algorithm that collects trials and updates θ with an outer optimizer; `adapt` runs the same trial.

    Args:
        parts: parts of the trial and of the objective.
        outer_optimizer: updates θ.
        meta_objective: the outer loss; None: the parts' objective along the adaptation path.

    Raises:
        ValueError: the optimizer needs a KL divergence, which the objective does not provide. A distribution without
            `kl` is refused by the first trace of `update`.
    """
    objective = outer.meta_objective(parts) if meta_objective is None else meta_objective
    if parts.multi_step_iterations is not None:
        if meta_objective is not None:
            raise ValueError("multi_step_iterations weighs stages of an outer loss, and there is none; leave it out")
        outer_optimizer = outer.annealed_stages(outer_optimizer, parts.trial, parts.multi_step_iterations)
    if outer_optimizer.needs_kl:
        _check_kl(parts, objective)

    def init(key):
        theta = strongly_typed(parts.adapter.init_meta(key))
        return MetaState(params=theta, opt_state=outer_optimizer.init(theta), iteration=jnp.zeros((), jnp.int32))

    def update(key, state):
        data = outer.collect_tasks(key, parts, state.params)
        with_behaviors = outer.with_behaviors(parts, data)
        theta, opt_state, metrics = outer_optimizer.update(objective, state.params, state.opt_state, with_behaviors)
        if parts.refit is not None:
            trajectories = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), data.trajectory)
            theta = parts.refit(theta, trajectories)
        state = MetaState(params=theta, opt_state=opt_state, iteration=state.iteration + 1)
        return state, outer.joined(outer.describe(data.trajectory, data.params, parts.env.measure), metrics)

    def gradient(key, theta):
        data = outer.collect_tasks(key, parts, theta)
        ascent, metrics = objective.ascent(theta, data)
        return ascent, outer.joined(outer.describe(data.trajectory, data.params, parts.env.measure), metrics)

    def adapt(key, theta, task, steps, deterministic=False):
        return outer.adapt(key, outer.with_steps(parts, steps), theta, task, deterministic)

    return entry_points(init, update, adapt, gradient, parts.policy, outer.online(parts))


def _check_kl(parts: outer.Parts, objective: MetaObjective) -> None:
    if objective.kl is None:
        raise ValueError("the outer optimizer is a trust region and the objective has no KL; choose gradient steps")
    if "critic" in labels_of(parts.policy) and parts.refit is None:
        # The KL has no curvature in the critic's parameters, so a natural step along them is unbounded.
        raise ValueError(
            "the outer optimizer is a trust region, which cannot move a value network; "
            "choose another baseline, such as previous_fit, or an algorithm with gradient steps, such as maml"
        )


@by_keyword(ComposeOptions)
def compose(env: TaskEnv, options: ComposeOptions) -> MetaAlgorithm:
    """Your own algorithm in one call: an inner step, an objective and an outer optimizer.

    Raises:
        ValueError: a name is unknown, a value out of range, or two options do not go together.
    """
    return assemble(gradient_parts(env, options, options.objective), options.outer_optimizer)
