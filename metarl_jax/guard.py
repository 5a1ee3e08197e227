"""Keeps numbers that are not finite out of θ: an update that yields one is undone inside the compiled program."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.base import MetaAlgorithm
from metarl_jax.checks import unknown
from metarl_jax.devices import mesh
from metarl_jax.soundness import watched
from metarl_jax.types import Key, MetaState, Metrics, PyTree, strongly_typed

ON_NONFINITE = ("abort", "skip", "rollback")


@struct.dataclass
class Guarded:
    """The outer optimiser's state with what the guard remembers: a part of θ's state, so of every checkpoint."""

    opt_state: PyTree
    """the outer optimiser's own"""
    anchor: PyTree
    """(θ, opt_state) at the last iteration that `every` divides: where a rollback goes back to"""
    failures: jax.Array
    """[] int32: updates undone in a row, up to now"""


def guarded(state: MetaState) -> MetaState:
    """The state of an algorithm as that of the guarded one; a state that is already, as it is."""
    if isinstance(state.opt_state, Guarded):
        return state
    state = strongly_typed(state)
    memory = Guarded(state.opt_state, (state.params, state.opt_state), jnp.zeros_like(state.iteration))
    return MetaState(state.params, memory, state.iteration)


def unguarded(state: MetaState) -> MetaState:
    """The state as the algorithm's own `update` takes it."""
    memory = state.opt_state
    return MetaState(state.params, memory.opt_state, state.iteration) if isinstance(memory, Guarded) else state


def guard(
    update: Callable[[Key, MetaState], tuple[MetaState, Metrics]], on_nonfinite: str, every: int
) -> Callable[[Key, MetaState], tuple[MetaState, Metrics]]:
    """An update that leaves no NaN or infinity in θ or in the outer optimiser's state.

    Where a metric, the new θ or the new optimiser state is not finite, or no episode was sound, θ and optimiser state
    stay as they were before the update ("abort", "skip"), or become those of the anchor ("rollback"). The iteration
    counts all the same, so that the next one draws other tasks. The metric `nonfinite` is 1 for an update that was
    undone, else 0. Where a part of the episodes is void, a stage without a return is no fault.

    Args:
        update: of a `MetaAlgorithm`.
        on_nonfinite: one of `ON_NONFINITE`; that "abort" stops at the first one is the loop's business.
        every: iterations between two anchors.

    Raises:
        ValueError: the name is unknown.
    """
    if on_nonfinite not in ON_NONFINITE:
        raise unknown("on_nonfinite", on_nonfinite, ON_NONFINITE)

    def guarded_update(key, state):
        memory, plain = state.opt_state, unguarded(state)
        before = (plain.params, plain.opt_state)
        anchor = _where(state.iteration % every == 0, before, memory.anchor)
        new, metrics = update(key, plain)
        finite = all_finite((_measured(metrics), new.params, new.opt_state)) & ~without_episode(metrics)
        params, opt_state = _where(
            finite, (new.params, new.opt_state), anchor if on_nonfinite == "rollback" else before
        )
        failures = jnp.where(finite, 0, memory.failures + 1)
        state = MetaState(params=params, opt_state=Guarded(opt_state, anchor, failures), iteration=new.iteration)
        return state, metrics | {"nonfinite": (~finite).astype(jnp.int32)}

    return guarded_update


def all_finite(tree: PyTree) -> jax.Array:
    """[] bool: no leaf holds a NaN or an infinity."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves] or [True]).all()


def _prefixes(metrics: Mapping[str, Any]) -> list[str]:
    """Of an algorithm's own metrics "", and those of the members of a `metarl_jax.algorithms.mixture`, as "member/"."""
    return sorted({name.removesuffix("diverged_episodes") for name in metrics if name.endswith("diverged_episodes")})


def without_episode(metrics: Mapping[str, Any]) -> Any:
    """[...] bool: every episode of the iteration was void, or every one of a mixture's member."""
    void = np.bool_(False)
    for prefix in _prefixes(metrics):
        if f"{prefix}environment_steps" in metrics:
            void |= (metrics[f"{prefix}diverged_episodes"] > 0) & (metrics[f"{prefix}environment_steps"] == 0)
    return void


def _measured(metrics: Metrics) -> Metrics:
    """The metrics, 0 for returns that may be NaN because all episodes of a stage were void.

    Of a policy that fails the entropy is not finite either, so nothing is hidden by it.
    """
    unknown = {}
    for prefix in _prefixes(metrics):
        void = metrics[f"{prefix}diverged_episodes"] > 0
        names = {f"{prefix}return", f"{prefix}gain"} & metrics.keys()
        unknown |= {name: jnp.where(void, 0, metrics[name]) for name in names}
    return metrics | unknown


def _where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def first_nan(algorithm: MetaAlgorithm, key: Key, state: MetaState) -> str | None:
    """Which operation of one update is the first to yield a NaN; None: none does, so a number overflowed to infinity.

    The update runs operation by operation, loops included: minutes where the compiled program takes seconds.

    Args:
        algorithm: not guarded.
        key: of the iteration.
        state: before it, not guarded.

    Returns:
        The primitive and the line of the source that asked for it.
    """
    with jax.disable_jit(), jax.debug_nans(True):
        try:
            algorithm.update(key, state)
        except FloatingPointError as error:
            return f"{' '.join(str(error).split())}, {_origin(error)}"
    return None


def first_void(algorithm: MetaAlgorithm, key: Key, state: MetaState) -> str | None:
    """Which number of an observation or a reward made an episode of one update void; None: none did.

    The update is compiled anew, for one device, and run.

    Args:
        algorithm: not guarded.
        key: of the iteration.
        state: before it, not guarded; of this process alone.

    Returns:
        The component, its value, whether at reset or after a step, and the limit.
    """
    with watched() as witness, jax.set_mesh(mesh(1, tasks=1)):
        key, state = jax.device_put((key, state), jax.devices()[0])
        # A function of its own, since JAX would not trace the update again.
        jax.block_until_ready(jax.jit(lambda key, state: algorithm.update(key, state))(key, state))
    return witness.seen


def _origin(error: BaseException) -> str:
    """The innermost line that is not JAX's own."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _within_jax(frame)]
    last: Any = frames[-1]
    return f"in {last.name} ({last.filename}:{last.lineno}: {last.line})"


def _within_jax(frame: traceback.FrameSummary) -> bool:
    root = jax.__file__.rpartition("/")[0]
    return frame.filename.startswith(root) or "/jaxlib/" in frame.filename or "traceback_util" in frame.filename
