"""From one task to B: collecting trials in all tasks of a meta-iteration, and the outer loss over them."""

import dataclasses

import jax
import jax.numpy as jnp

from metarl_jax.base import MetaObjective
from metarl_jax.outer.exploration import CREDITS
from metarl_jax.outer.memory import Divergence
from metarl_jax.outer.meta_gradient import Parts, replay, trial_of
from metarl_jax.outer.objectives import kl_of_stages
from metarl_jax.policies.likelihood import distributions
from metarl_jax.types import Key, Path, PyTree, Stage


def collect_tasks(key: Key, parts: Parts, theta: PyTree) -> Stage:
    """Samples B tasks and runs a trial in each.

    Task i and its data draw from ``fold_in(key, i)``, so they do not depend on the number of tasks or on the device.

    Returns:
        Leaves [B, S, N, T, ...].
    """
    data = parts.memory.over_tasks(lambda index: trial_of(key, index, parts, theta), jnp.arange(parts.trial.tasks))
    return data.replace(credit=CREDITS[parts.credit](parts, theta, data))


def with_behaviors(parts: Parts, data: Stage) -> Stage:
    """Adds π_φ(·|s) at all steps to the data, so that outer steps need not recompute it; leaves [B, S, ...]."""

    def of_stage(stage):
        return distributions(parts.policy, stage.params, stage.trajectory)

    if jax.eval_shape(of_stage, jax.tree.map(lambda leaf: leaf[0, 0], data)) is None:
        return data
    return dataclasses.replace(data, behavior=parts.memory.over_tasks(jax.vmap(of_stage), data))


def meta_objective(parts: Parts) -> MetaObjective:
    """The objective along each task's path, and its KL; means over tasks. See `MetaObjective`."""

    def of_task(theta, data):
        return parts.objective(parts.policy, replay(parts, theta, data))

    def tell(theta, data):
        counted = replay(parts, theta, data).counted
        # Distributions with integer leaves carry no tangents: use φ instead. Both are stationary points of the KL.
        differentiable = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(counted.seen))
        return counted.params, counted.seen if differentiable else None

    def kl(policies, data):
        params, action_distributions = policies
        counted = jax.tree.map(lambda leaf: leaf[parts.trial.first_counted :], data)
        stages = kl_of_stages(parts.policy, Path(params=params, data=counted, burn_in=0, seen=action_distributions))
        return stages.mean() if counted.weight is None else counted.weight @ stages

    return parts.memory.mean_over_tasks(of_task, Divergence(tell, kl))
