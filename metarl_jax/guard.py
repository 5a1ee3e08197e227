"""Keeps θ finite: an update with a NaN or an infinity is undone inside the compiled program."""

import dataclasses
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.base import MetaAlgorithm
from metarl_jax.checks import one_of
from metarl_jax.devices import mesh
from metarl_jax.outer.lives import Life
from metarl_jax.soundness import all_finite, watched
from metarl_jax.types import Key, MetaState, Metrics, PyTree, strongly_typed, tree_where

ON_NONFINITE = ("abort", "skip", "rollback")


@struct.dataclass
class Guarded:
    """Optimiser state plus the guard's bookkeeping; stored in `MetaState.opt_state`, so checkpoints include it."""

    opt_state: PyTree
    """state of the outer optimiser"""
    anchor: PyTree
    """(θ, opt_state) at the last iteration divisible by `every`, which a rollback restores"""
    failures: jax.Array
    """[] int32: number of consecutive updates undone so far"""


def guarded(state: MetaState) -> MetaState:
    """Wraps the optimiser state in `Guarded`; a state that is already guarded is returned unchanged."""
    if isinstance(state.opt_state, Guarded):
        return state
    state = strongly_typed(state)
    guard_state = Guarded(state.opt_state, (state.params, state.opt_state), jnp.zeros_like(state.iteration))
    return MetaState(state.params, guard_state, state.iteration)


def unguarded(state: MetaState) -> MetaState:
    """The state that the algorithm's own `update` takes: inverse of `guarded`."""
    guard_state = state.opt_state
    if not isinstance(guard_state, Guarded):
        return state
    return MetaState(state.params, guard_state.opt_state, state.iteration)


def guard(
    update: Callable[[Key, MetaState], tuple[MetaState, Metrics]], on_nonfinite: str, every: int
) -> Callable[[Key, MetaState], tuple[MetaState, Metrics]]:
    """Wraps an update so that no NaN or infinity enters θ or the outer optimiser's state.

    If a metric, the new θ or the new optimiser state is not finite, or if all episodes were void, θ and the optimiser
    state keep their values from before the update ("abort", "skip") or are restored from the anchor ("rollback"). The
    iteration counter still advances, so the next iteration draws other tasks. The metric `nonfinite` is 1 for an undone
    update, else 0. If only some episodes are void, a NaN return of a stage is not an error. Nor is any number in the
    environments of agents that live on.

    Args:
        update: the `update` of a `MetaAlgorithm`.
        on_nonfinite: one of `ON_NONFINITE`. For "abort" the training loop stops at the first undone update.
        every: iterations between two anchors.

    Raises:
        ValueError: the name is unknown.
    """
    one_of("on_nonfinite", on_nonfinite, ON_NONFINITE)

    def guarded_update(key, state):
        guard_state, unguarded_state = state.opt_state, unguarded(state)
        before = (unguarded_state.params, unguarded_state.opt_state)
        anchor = tree_where(state.iteration % every == 0, before, guard_state.anchor)
        new, metrics = update(key, unguarded_state)
        sound = all_finite((_measured(metrics), new.params, _without_environments(new.opt_state)))
        finite = sound & ~without_episode(metrics)
        params, opt_state = tree_where(
            finite, (new.params, new.opt_state), anchor if on_nonfinite == "rollback" else before
        )
        failures = jnp.where(finite, 0, guard_state.failures + 1)
        state = MetaState(params=params, opt_state=Guarded(opt_state, anchor, failures), iteration=new.iteration)
        return state, metrics | {"nonfinite": (~finite).astype(jnp.int32)}

    return guarded_update


def _without_environments(opt_state: PyTree) -> PyTree:
    """Without the tasks and environments of agents that live on: what is hidden in them may be infinite.

    A broken reset stays there until the next piece, which begins with another reset.
    """

    def without(node):
        return dataclasses.replace(node, task=None, environments=None) if isinstance(node, Life) else node

    return jax.tree.map(without, opt_state, is_leaf=lambda node: isinstance(node, Life))


def _prefixes(metrics: Mapping[str, Any]) -> list[str]:
    """Prefixes of metric names: "" for an algorithm, "member/" for the members of a `metarl_jax.algorithms.mixture`."""
    return sorted({name.removesuffix("diverged_episodes") for name in metrics if name.endswith("diverged_episodes")})


def without_episode(metrics: Mapping[str, Any]) -> Any:
    """[...] bool: all episodes of the iteration were void, or all episodes of one member of a mixture."""
    void = np.bool_(False)
    for prefix in _prefixes(metrics):
        if f"{prefix}environment_steps" in metrics:
            void |= (metrics[f"{prefix}diverged_episodes"] > 0) & (metrics[f"{prefix}environment_steps"] == 0)
    return void


def _measured(metrics: Metrics) -> Metrics:
    """The metrics, with 0 for returns that may be NaN only because all episodes of a stage were void.

    A failing policy is still detected, because its entropy is not finite either.
    """
    replaced = {}
    for prefix in _prefixes(metrics):
        void = metrics[f"{prefix}diverged_episodes"] > 0
        names = {f"{prefix}return", f"{prefix}gain"} & metrics.keys()
        replaced |= {name: jnp.where(void, 0, metrics[name]) for name in names}
    return metrics | replaced


def first_nan(algorithm: MetaAlgorithm, key: Key, state: MetaState) -> str | None:
    """Finds the first operation of an update that yields a NaN; None: there is none, only an overflow to infinity.

    The update runs operation by operation, loops included: minutes where the compiled program takes seconds.

    Args:
        algorithm: not guarded.
        key: of the iteration.
        state: before it, not guarded.

    Returns:
        The primitive and the source line that called it.
    """
    with jax.disable_jit(), jax.debug_nans(True):
        try:
            algorithm.update(key, state)
        except FloatingPointError as error:
            return f"{' '.join(str(error).split())}, {_origin(error)}"
    return None


def first_void(algorithm: MetaAlgorithm, key: Key, state: MetaState) -> str | None:
    """Finds the number in an observation or a reward that made an episode of one update void; None: no episode is void.

    The update is recompiled for one device and run.

    Args:
        algorithm: not guarded.
        key: of the iteration.
        state: before it, not guarded; all of it on this process.

    Returns:
        The component, its value, whether at reset or after a step, and the limit.
    """
    with watched() as witness, jax.set_mesh(mesh(1, tasks=1)):
        key, state = jax.device_put((key, state), jax.devices()[0])
        # A new lambda, because JAX would reuse the cached trace of the update itself.
        jax.block_until_ready(jax.jit(lambda key, state: algorithm.update(key, state))(key, state))
    return witness.seen


def _origin(error: BaseException) -> str:
    """The innermost source line outside JAX."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _within_jax(frame)]
    last: Any = frames[-1]
    return f"in {last.name} ({last.filename}:{last.lineno}: {last.line})"


def _within_jax(frame: traceback.FrameSummary) -> bool:
    root = jax.__file__.rpartition("/")[0]
    return frame.filename.startswith(root) or "/jaxlib/" in frame.filename or "traceback_util" in frame.filename
