"""Level 2: parts that see one task become a meta-gradient over B tasks.

Two phases. `collect` runs the trial, physics included, without gradients. `replay` runs the same adapter again on the
fixed data as a function of θ, and that is what the outer loss differentiates: nothing flows through the environment.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax import checks
from metarl_jax.base import Adapter, MetaObjective, Objective, Policy, ScaledEstimator, TaskEnv, Trial
from metarl_jax.outer.budget import within_budget
from metarl_jax.outer.exploration import exploration_credit, less_that_of_the_others
from metarl_jax.outer.memory import Divergence, Memory
from metarl_jax.outer.objectives import kl_of_stages
from metarl_jax.policies.likelihood import distributions, masked_mean, mean_of_counted
from metarl_jax.rollout import rollout
from metarl_jax.types import Adaptation, Key, Metrics, Path, PyTree, Stage, Trajectory


class Parts(NamedTuple):
    """What an algorithm of the family is a product of."""

    env: TaskEnv
    policy: Policy
    adapter: Adapter
    advantage: ScaledEstimator
    objective: Objective
    trial: Trial
    memory: Memory = Memory()
    refit: Callable[[PyTree, Trajectory], PyTree] | None = None
    """``(θ, trajectories [B·S·N, T]) → θ``: what is fitted to a meta-iteration's data instead of learned by gradient"""
    average: str = "horizon"
    """what losses divide the sums over a stage by, see `metarl_jax.types.Trajectory.mean`"""
    longer: Adapter | None = None
    """the adapter of `adapt` with more inner steps than training takes; None: `adapter`"""
    credit: str = "return"
    """what episodes are credited with, a name of `CREDITS`"""
    multi_step_iterations: int | None = None
    """meta-iterations over which the last stage becomes the only one that counts; None: all counted ones always do"""
    discount: float = 1.0
    """γ of J(θ). Unless the advantages hold γᵗ it is 1, whatever their own γ, which then is a way to estimate"""


def run_trial(
    key: Key, parts: Parts, theta: PyTree, task: PyTree, kept: Callable[[Stage], PyTree]
) -> tuple[PyTree, PyTree]:
    """One trial in ONE task: roll out, learn, roll out, … Physics stands once in the program, in the scan over stages.

    Args:
        key: stage s draws from ``fold_in(key, s)``.
        parts: the algorithm's.
        theta: θ.
        task: M.
        kept: what is kept of a stage. Its credit is 0, since it takes other tasks to know it.

    Returns:
        The fast parameters after the last inner step, and what was kept, leaves [S, ...].
    """
    env, policy, adapter, trial = parts.env, parts.policy, parts.adapter, parts.trial

    def stage(fast, index):
        params = adapter.params(theta, fast)
        stage_key = jax.random.fold_in(key, index)
        trajectory = rollout(stage_key, env, policy, params, task, trial.episodes, trial.horizon)
        trajectory = dataclasses.replace(trajectory, average=parts.average)
        if trial.stage_steps is not None:
            trajectory = within_budget(trajectory, trial.stage_steps)
        with jax.named_scope("adapt"):
            advantage, scale = parts.advantage(params, trajectory)
            # The last stage is there to be counted; no step follows it.
            fast = jax.lax.cond(
                index < trial.adaptation_steps,
                lambda: adapter.learn(theta, fast, trajectory, advantage),
                lambda: fast,
            )
        credit = jnp.zeros(trial.episodes, advantage.dtype)
        data = Stage(trajectory=trajectory, advantage=advantage, params=params, scale=scale, credit=credit)
        return fast, kept(data)

    return jax.lax.scan(stage, adapter.init(theta), jnp.arange(trial.stages))


def collect(key: Key, parts: Parts, theta: PyTree, task: PyTree) -> Stage:
    """All of one trial in ONE task, for the replay; leaves [S, N, T, ...]. See `run_trial`."""
    return run_trial(key, parts, theta, task, lambda stage: stage)[1]


def replay(parts: Parts, theta: PyTree, data: Stage, start: PyTree = None) -> Path:
    """The adaptation path of ONE task as a differentiable function of θ at fixed data.

    Args:
        parts: the algorithm's.
        theta: θ.
        data: leaves [S, ...], from `collect`.
        start: what the adapter passed to stage 0, fixed data too; None means where θ starts.

    Returns:
        φ_0 … φ_L, leaves [S, ...], beside the data.
    """
    adapter = parts.adapter

    def step(fast, stage):
        params = adapter.params(theta, fast)
        if adapter.learn_seeing is None:
            return adapter.learn(theta, fast, stage.trajectory, stage.advantage), (params, None)
        fast, seen = adapter.learn_seeing(theta, fast, stage.trajectory, stage.advantage)
        return fast, (params, seen)

    learned_from = jax.tree.map(lambda leaf: leaf[:-1], data)
    start = adapter.init(theta) if start is None else start
    fast, path = jax.lax.scan(parts.memory.checkpoint(step), start, learned_from)
    params, seen = adapter.params(theta, fast), None
    if path[1] is not None:
        seen = distributions(parts.policy, params, jax.tree.map(lambda leaf: leaf[-1], data.trajectory))
    params, seen = jax.tree.map(lambda before, last: jnp.concatenate([before, last[None]]), path, (params, seen))
    return Path(params=params, data=data, burn_in=parts.trial.first_counted, seen=seen)


def summary(stage: Stage) -> tuple[jax.Array, Trajectory, jax.Array, jax.Array | None]:
    """What `adapt` keeps of a stage: returns, D, lengths, which episodes are spare.

    Summed up stage by stage: where D is not asked for, nothing of it need outlive a stage of a long trial.
    """
    return stage.trajectory.returns, stage.trajectory, stage.trajectory.lengths, stage.trajectory.spare


def with_steps(parts: Parts, steps: int | None) -> Parts:
    """The parts of a trial of `steps` inner steps, for `adapt`; None: those of training.

    Raises:
        ValueError: `steps` is no integer of at least 0.
    """
    if steps is None:
        return parts
    trial = dataclasses.replace(parts.trial, adaptation_steps=checks.integer("steps", steps, 0), burn_in=None)
    further = steps > parts.trial.adaptation_steps and parts.longer is not None
    return parts._replace(trial=trial, adapter=parts.longer if further else parts.adapter)


def adapt(key: Key, parts: Parts, theta: PyTree, task: PyTree) -> Adaptation:
    """φ = f_θ(D) in ONE task, by the same trial that training uses."""
    fast, seen = run_trial(key, parts, theta, task, summary)
    return Adaptation(parts.adapter.params(theta, fast), *seen)


def collect_tasks(key: Key, parts: Parts, theta: PyTree) -> Stage:
    """Samples B tasks and runs a trial in each.

    Task i and its data draw from ``fold_in(key, i)``, so they do not depend on how many tasks there are or where they
    live.

    Returns:
        Leaves [B, S, N, T, ...].
    """
    data = parts.memory.over_tasks(lambda index: trial_of(key, index, parts, theta), jnp.arange(parts.trial.tasks))
    return data.replace(credit=CREDITS[parts.credit](parts, theta, data))


def with_behaviors(parts: Parts, data: Stage) -> Stage:
    """Collected data with π_φ(·|s) of all its steps, so that no outer step computes it again; leaves [B, S, ...]."""

    def of_stage(stage):
        return distributions(parts.policy, stage.params, stage.trajectory)

    if jax.eval_shape(of_stage, jax.tree.map(lambda leaf: leaf[0, 0], data)) is None:
        return data
    return dataclasses.replace(data, behavior=parts.memory.over_tasks(jax.vmap(of_stage), data))


def trial_of(key: Key, index: jax.Array, parts: Parts, theta: PyTree) -> Stage:
    """The trial of task number `index` of a meta-iteration; leaves [S, N, T, ...]."""
    task_key, data_key = jax.random.split(jax.random.fold_in(key, index))
    return collect(data_key, parts, theta, parts.env.sample_task(task_key))


def influence(parts: Parts, theta: PyTree, data: Stage) -> jax.Array:
    """C_kn = −∂loss/∂w_kn less the mean of the other episodes' of its stage, at w = 1; leaves [B, S, N].

    w_kn weighs the advantages of episode n of stage k in the inner step that learns from it, so its derivative is what
    this episode changed of the later return, and of all else in the outer loss, where `exploration_credit` gives every
    episode the whole return. What the other episodes made of it never enters, which takes away most of the noise. What
    is left out is of second order: how the step's effect depends on two episodes at once. So the gradient is biased
    where inner steps are long. With one episode there is no mean to subtract. A step without a derivative, as that of
    `metarl_jax.inner.first_order`, has no influence at all.

    Void episodes have no credit, and are no others. Data whose credit is 0 are expected.
    """

    def of_task(data):
        def loss(weights):
            weighed = dataclasses.replace(data, advantage=data.advantage * weights[..., None])
            path = replay(parts, theta, weighed)
            return parts.objective(parts.policy, dataclasses.replace(path, data=data))[0]

        return -jax.grad(loss)(jnp.ones_like(data.credit))

    found = jax.lax.stop_gradient(parts.memory.over_tasks(of_task, data))
    return less_that_of_the_others(found, ~data.trajectory.void)


CREDITS: dict[str, Callable[[Parts, PyTree, Stage], jax.Array]] = {
    "return": lambda parts, theta, data: exploration_credit(data, parts.trial, parts.discount),
    "influence": influence,
}
"""``(parts, θ, collected data) → C [B, S, N]`` by name: what `metarl_jax.outer.credit` weighs log p(τ) with."""


def meta_objective(parts: Parts) -> MetaObjective:
    """The objective along every task's path, and its KL; means over tasks. See `MetaObjective`."""

    def of_task(theta, data):
        return parts.objective(parts.policy, replay(parts, theta, data))

    def tell(theta, data):
        counted = replay(parts, theta, data).counted
        # φ instead of what has whole numbers, which no tangent passes; both are flat points of the KL.
        smooth = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(counted.seen))
        return counted.params, counted.seen if smooth else None

    def kl(told, data):
        params, seen = told
        counted = jax.tree.map(lambda leaf: leaf[parts.trial.first_counted :], data)
        stages = kl_of_stages(parts.policy, Path(params=params, data=counted, burn_in=0, seen=seen))
        return stages.mean() if counted.weight is None else counted.weight @ stages

    return parts.memory.mean_over_tasks(of_task, Divergence(tell, kl))


def describe_window(data: Stage) -> Metrics:
    """`describe` of windows of long lives, leaves [B, S, ...]: what stage 0 took was counted by the window before.

    Where all agents are newborn, stage 0 is void, and its return is given as that of stage 1.
    """
    metrics = describe(data.trajectory, data.params)
    new = describe(*jax.tree.map(lambda leaf: leaf[:, 1:], (data.trajectory, data.params)))
    known = ~data.trajectory.void[:, 0].all()
    returns = metrics["return"]
    returns = returns.at[0].set(jnp.where(known, returns[0], returns[1]))
    counts = {name: new[name] for name in ("valid_share", "environment_steps", "diverged_episodes")}
    return metrics | counts | {"return": returns, "gain": returns[-1] - returns[0]}


def describe(trajectory: Trajectory, params: PyTree) -> Metrics:
    """Metrics of collected data, and of the φ of every stage, leaves [B, S, ...].

    Returns are undiscounted sums over an episode.

    return [S], gain (last stage minus first), entropy [S] in nats (sampled, −E log π), inner_step_norm
    (‖φ_{s+1} − φ_s‖₂, mean over tasks and steps), valid_share (taken steps / room for them), environment_steps,
    diverged_episodes. The return is the mean over all episodes but void ones, NaN if there is no other, and no step of
    a void episode is among the steps taken. Where stages are budgets of steps it is the mean over tasks of that, since
    a task of short episodes has more of them, and spare episodes are no room.
    """
    returns = jnp.where(trajectory.valid, trajectory.reward, 0).sum(-1)
    sound, room = ~trajectory.void, jnp.ones_like(trajectory.valid)
    if trajectory.spare is None:
        per_stage = mean_of_counted(returns, sound, (0, 2))
    else:
        room = room & ~trajectory.spare[..., None]
        per_stage = mean_of_counted(mean_of_counted(returns, sound, 2), sound.any(2), 0)
    per_stage = jnp.where(sound.any((0, 2)), per_stage, jnp.nan)
    step_norm = jax.vmap(jax.vmap(optax.tree.norm))(jax.tree.map(lambda leaf: jnp.diff(leaf, axis=1), params))
    return {
        "return": per_stage,
        "gain": per_stage[-1] - per_stage[0],
        "entropy": -jax.vmap(masked_mean, in_axes=1)(trajectory.log_prob, trajectory.valid),
        "inner_step_norm": step_norm.sum() / max(step_norm.size, 1),
        "valid_share": masked_mean(trajectory.valid.astype(per_stage.dtype), room),
        "environment_steps": trajectory.valid.sum(),
        "diverged_episodes": trajectory.diverged.sum(),
    }
