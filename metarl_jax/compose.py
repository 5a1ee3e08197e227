"""What the named algorithms share: a `MetaAlgorithm` from an inner step, an objective and an outer optimiser."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metarl_jax import checks, inner, outer, policies
from metarl_jax.base import (
    AdvantageEstimator,
    InnerOptimizer,
    MetaAlgorithm,
    MetaObjective,
    Objective,
    OuterOptimizer,
    Policy,
    Surrogate,
    TaskEnv,
    Trial,
)
from metarl_jax.checks import choose
from metarl_jax.entry import entry_points
from metarl_jax.inner.rates import Rate
from metarl_jax.inner.resolve import FastParameters, labels_of, resolve_advantage, resolve_optimizer
from metarl_jax.types import AVERAGES, MetaState, PyTree, Trajectory, strongly_typed


def build_parts(
    env: TaskEnv,
    *,
    objective: Objective,
    surrogate: str | Surrogate = "score_function",
    inner_optimizer: str | Callable[[Rate], InnerOptimizer] = "sgd",
    inner_lr: Rate = 0.1,
    inner_lr_beyond: str = "decay",
    std_lr: Rate | None = None,
    fast_parameters: FastParameters = "all",
    credit: bool | float = False,
    credit_estimator: str = "return",
    entropy_weight: float = 0.0,
    tasks: int = 20,
    episodes: int = 20,
    adaptation_steps: int = 1,
    burn_in: int | None = None,
    multi_step_iterations: int | None = None,
    horizon: int | None = None,
    stage_steps: int | None = None,
    advantage: str | AdvantageEstimator = "gae",
    discount: float | None = None,
    lambda_: float | None = None,
    discount_states: bool = False,
    normalized: bool | None = None,
    baseline: str | inner.Baseline | inner.Critic | None = None,
    average: str = "horizon",
    policy: Policy | Mapping[str, Any] | None = None,
    remat: bool = False,
    task_chunk: int | None = None,
) -> outer.Parts:
    """The parts of an algorithm; its options are those that all algorithms have in common.

    Args:
        env: p(M) and its MDPs.
        objective: the outer loss along the path.
        surrogate: the inner loss, a name of `metarl_jax.inner.SURROGATES` or a function.
        inner_optimizer: the update rule, a name of `metarl_jax.inner.INNER_OPTIMIZERS`, or a function
            ``inner_lr → InnerOptimizer``.
        inner_lr: α, one rate, one per inner step, of which the last serves all further steps of training, or a
            schedule: a function of the step's number 0, 1, 2, …
        inner_lr_beyond: how α goes on in `adapt` with more steps than those of training, or than the given rates: a
            name of `metarl_jax.inner.BEYOND`; "decay" halves it at every step.
        std_lr: α of the standard deviation; None means `inner_lr`.
        fast_parameters: what the inner loop moves: "all", "head" (the last layer and the standard deviation),
            "context", or a function ``φ → a tree like φ`` of booleans.
        credit: adds the score term of the sampled update; a number weighs it, True is 1.
        credit_estimator: what that term weighs an episode's score with: "return", the later stages', which makes the
            gradient unbiased and noisy; or "influence", what the episode itself changed of it, see
            `metarl_jax.outer.meta_gradient.influence`.
        entropy_weight: of the entropy of all stages' policies in the outer loss; 0 leaves it out.
        tasks: B, tasks per meta-iteration.
        episodes: N, episodes per stage.
        adaptation_steps: L, inner steps.
        burn_in: stages that the objective does not count; None means L, so only the last counts.
        multi_step_iterations: meta-iterations in which the weights of the counted stages before the last fall from
            equal to 0; None keeps them equal. See `metarl_jax.outer.annealed_stages`.
        horizon: T, environment steps per episode; None means the environment's.
        stage_steps: a stage's budget of environment steps, as published samplers have it: as many whole episodes count
            as reach it, at most `episodes`; see `metarl_jax.outer.within_budget`. None means all N.
        advantage: the estimator of both loops, a name or a function of one task's trajectory; of a function's γ its
            attribute `discount` tells, if it has one.
        discount: γ of a named estimator; None means its default. Advantages then hold γ^{k−t}, and not γᵗ: the usual
            estimator, which is the gradient of no function where γ < 1.
        lambda_: λ of a named estimator; None means its default.
        discount_states: puts γᵗ in, in both loops and in the credit, so that J(θ) is the discounted return, and
            `gradient` its gradient under the same conditions as without discount.
        normalized: whether "gae" brings each task's stage to mean 0 and standard deviation 1; None means its default.
            What is ascended then is said in `metarl_jax.inner.advantages`.
        baseline: V of "gae", a name of `metarl_jax.inner.BASELINES`, a `Baseline` or a `Critic`; None chooses by size,
            see `metarl_jax.inner.choose_baseline`.
        average: what the sums over a stage's steps are divided by: "horizon", N·T, so that `gradient` times T is the
            gradient of an episode's mean return, or "valid", the number of steps taken, as in published codes; see
            `metarl_jax.types.Trajectory.mean`.
        policy: π, or options of `metarl_jax.policies.mlp`, which makes it otherwise.
        remat: recompute inner steps in the backward pass instead of storing their activations.
        task_chunk: tasks at a time in both phases; None means all at once, and on a CPU, in the outer gradient, as many
            as its caches hold.

    Raises:
        ValueError: a name is unknown, a value out of range, or two options do not go together.
    """
    policy = policies.make_policy(env, policy)
    trial = Trial(
        tasks=tasks,
        episodes=episodes,
        adaptation_steps=adaptation_steps,
        burn_in=burn_in,
        horizon=env.horizon if horizon is None else horizon,
        stage_steps=stage_steps,
    )
    discount_states = checks.boolean("discount_states", discount_states)
    estimator = resolve_advantage(
        env,
        trial,
        advantage,
        baseline,
        discount_states,
        discount=discount,
        lambda_=lambda_,
        normalized=normalized,
    )
    gamma = 1.0 if estimator.discount is None else estimator.discount
    loss_of_step: Surrogate = choose("surrogate", surrogate, inner.SURROGATES)
    critic, refit = estimator.critic, None
    if critic is not None:
        policy = inner.actor_critic(policy, critic)
        if critic.loss is not None:
            loss = inner.critic_loss(critic, gamma)
            objective = outer.add(objective, outer.critic_error(loss, critic.outer_weight))
            if critic.inner_weight:
                loss_of_step = inner.with_critic_loss(loss_of_step, loss, critic.inner_weight)
        refit = _refit(critic, gamma)
    outer.check_annealing(multi_step_iterations, trial, credit)
    credit = float(credit) if isinstance(credit, bool) else checks.non_negative("credit", credit)
    if credit:
        if adaptation_steps == 0:
            raise ValueError(
                "credit is for what a stage does for later ones, and with adaptation_steps=0 there is one stage only; "
                "leave credit out, or take at least one inner step"
            )
        objective = outer.add(objective, outer.credit(credit))
    elif credit_estimator != "return":
        raise ValueError(f"credit_estimator is {credit_estimator!r}, without credit; leave it out, or set credit too")
    if checks.non_negative("entropy_weight", entropy_weight):
        objective = outer.add(objective, outer.entropy_bonus(entropy_weight))
    if baseline == "leave_one_out" and episodes < 2:
        raise ValueError("baseline 'leave_one_out' fits to the other episodes, and episodes is 1; take at least 2")
    if baseline == "leave_one_out" and stage_steps is not None and stage_steps <= trial.horizon:
        raise ValueError(
            f"stage_steps is {stage_steps}, one episode, and 'leave_one_out' fits to the others; take more"
        )
    if isinstance(inner_optimizer, InnerOptimizer):
        raise ValueError("inner_optimizer is an optimizer already; hand in a function inner_lr → InnerOptimizer")
    build = choose("inner_optimizer", inner_optimizer, inner.INNER_OPTIMIZERS)
    optimizer = resolve_optimizer(policy, build, inner_lr, fast_parameters, std_lr, critic)
    checks.one_of("inner_lr_beyond", inner_lr_beyond, inner.BEYOND)

    def build_longer(rate):  # every group of parameters goes on from its own last rate
        return inner.falling(build(rate), inner.given_steps(trial.adaptation_steps, rate), inner_lr_beyond)

    longer = resolve_optimizer(policy, build_longer, inner_lr, fast_parameters, std_lr, critic)
    if task_chunk is not None:
        checks.integer("task_chunk", task_chunk)
    return outer.Parts(
        env=env,
        policy=policy,
        adapter=inner.policy_gradient(policy, loss_of_step, optimizer),
        longer=inner.policy_gradient(policy, loss_of_step, longer),
        advantage=estimator.estimate,
        objective=objective,
        trial=trial,
        memory=outer.Memory(checks.boolean("remat", remat), task_chunk, trial.episodes * trial.horizon),
        refit=refit,
        average=checks.one_of("average", average, AVERAGES),
        credit=checks.one_of("credit_estimator", credit_estimator, outer.CREDITS) if credit else "return",
        discount=gamma if discount_states else 1.0,
        multi_step_iterations=multi_step_iterations,
    )


def _refit(critic: inner.Critic, discount: float):
    fit = critic.refit
    if fit is None:
        return None

    def refit(theta: PyTree, trajectory: Trajectory) -> PyTree:
        params = inner.policy_of(theta)
        return inner.with_policy(theta, params | {"critic": fit(params["critic"], trajectory, discount)})

    return refit


def assemble(
    parts: outer.Parts, outer_optimizer: OuterOptimizer, meta_objective: MetaObjective | None = None
) -> MetaAlgorithm:
    """The algorithm that collects trials, moves θ by an outer optimiser, and adapts by the same trial.

    Args:
        parts: of the trial and the objective.
        outer_optimizer: how θ moves.
        meta_objective: the outer loss; None means the parts' objective along the adaptation path.

    Raises:
        ValueError: the optimiser needs a KL that the objective or the policy's distribution has not.
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
        known = outer.with_behaviors(parts, data)
        theta, opt_state, metrics = outer_optimizer.update(objective, state.params, state.opt_state, known)
        if parts.refit is not None:
            trajectories = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[3:]), data.trajectory)
            theta = parts.refit(theta, trajectories)
        state = MetaState(params=theta, opt_state=opt_state, iteration=state.iteration + 1)
        return state, outer.describe(data.trajectory, data.params) | metrics

    def gradient(key, theta):
        data = outer.collect_tasks(key, parts, theta)
        (loss, metrics), descent = objective.value_and_gradient(theta, data)
        ascent = jax.tree.map(jnp.negative, descent)
        return ascent, outer.describe(data.trajectory, data.params) | metrics | {
            "loss": loss,
            "meta_gradient_norm": optax.tree.norm(ascent),
        }

    def adapt(key, theta, task, steps=None):
        return outer.adapt(key, outer.with_steps(parts, steps), theta, task)

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
    found = []

    def distribution(key):
        policy = parts.policy
        found.append(policy.apply(policy.init(key), jnp.zeros(parts.env.observation_size)))
        return 0

    jax.eval_shape(distribution, jax.random.key(0))
    if not hasattr(found[0], "kl"):
        raise ValueError(
            f"the outer optimizer is a trust region and the policy's {type(found[0]).__name__} has no method "
            "kl(other); give it one, or choose an algorithm with gradient steps, such as maml"
        )


def compose(env: TaskEnv, *, outer_optimizer: OuterOptimizer, **options: Any) -> MetaAlgorithm:
    """The product of an inner step, an objective and an outer optimiser; the named algorithms call this.

    Args:
        env: p(M) and its MDPs.
        outer_optimizer: how θ moves.
        **options: of `build_parts`.

    Raises:
        ValueError: a name is unknown, a value out of range, or two options do not go together.
    """
    return assemble(build_parts(env, **options), outer_optimizer)
