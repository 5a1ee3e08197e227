"""Adaptation to ONE task with the trial of training: the implementation of `MetaAlgorithm.adapt`."""

import dataclasses

import jax

from metarl_jax import checks
from metarl_jax.outer.meta_gradient import Parts, run_trial
from metarl_jax.types import Adaptation, Key, PyTree, Stage, Trajectory


def summary(stage: Stage) -> tuple[jax.Array, Trajectory, jax.Array, jax.Array | None]:
    """The results of a stage for `adapt`: returns, D, lengths and spare flags.

    Returns and lengths are computed per stage, so that memory stays constant in S if D is unused.
    """
    return stage.trajectory.returns, stage.trajectory, stage.trajectory.lengths, stage.trajectory.spare


def with_steps(parts: Parts, steps: int | None) -> Parts:
    """The parts with `steps` inner steps per trial, for `adapt`; None: unchanged.

    Raises:
        ValueError: `steps` is not a non-negative integer.
    """
    if steps is None:
        return parts
    trial = dataclasses.replace(parts.trial, adaptation_steps=checks.integer("steps", steps, 0), burn_in=None)
    is_longer = steps > parts.trial.adaptation_steps and parts.longer is not None
    return parts._replace(trial=trial, adapter=parts.longer if is_longer else parts.adapter)


def adapt(key: Key, parts: Parts, theta: PyTree, task: PyTree) -> Adaptation:
    """φ = f_θ(D) in ONE task, with the same trial as in training."""
    fast, summaries = run_trial(key, parts, theta, task, summary)
    return Adaptation(parts.adapter.params(theta, fast), *summaries)
