"""Adaptation to ONE task, by the same trial that training uses: what `MetaAlgorithm.adapt` runs."""

import dataclasses

import jax

from metarl_jax import checks
from metarl_jax.outer.meta_gradient import Parts, run_trial
from metarl_jax.types import Adaptation, Key, PyTree, Stage, Trajectory


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
