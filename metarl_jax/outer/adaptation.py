"""Adaptation to ONE task with the trial of training: the implementation of `MetaAlgorithm.adapt`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from metarl_jax import checks
from metarl_jax.base import Policy
from metarl_jax.outer.meta_gradient import Parts, Play, run_trial
from metarl_jax.policies.modes import at_mode
from metarl_jax.types import Adaptation, Key, Played, PyTree, Stage, Trajectory


def summary(stage: Stage) -> tuple[jax.Array, Trajectory, jax.Array, jax.Array | None]:
    """The results of a stage for `adapt`: returns, D, lengths and spare flags.

    Returns and lengths are computed per stage, so that memory stays constant in S if D is unused.
    """
    return stage.trajectory.returns, stage.trajectory, stage.trajectory.lengths, stage.trajectory.spare


def summary_with_modes(policy: Policy, deterministic: bool) -> Callable[[Stage, Play], tuple[Any, ...]]:
    """``(stage, play) → (*summary(stage), by_mode)``; `by_mode` is None unless `deterministic`."""

    def record(stage, play):
        if not deterministic:
            return *summary(stage), None
        trajectory = play(at_mode(policy))
        return *summary(stage), Played(trajectory.returns, trajectory.lengths)

    return record


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


def adapt(key: Key, parts: Parts, theta: PyTree, task: PyTree, deterministic: bool = False) -> Adaptation:
    """φ = f_θ(D) in ONE task, with the same trial as in training; `deterministic` also fills `Adaptation.by_mode`.

    D is sampled in any case, since an inner step learns nothing from episodes without exploration.
    """
    fast, summaries = run_trial(key, parts, theta, task, summary_with_modes(parts.policy, deterministic))
    return Adaptation(parts.adapter.params(theta, fast), *summaries)
