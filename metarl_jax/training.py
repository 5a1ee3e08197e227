"""The training loop: compiled chunks of meta-iterations, yielded to Python between log points. No disk, no printing."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.base import MetaAlgorithm
from metarl_jax.types import Key, MetaState, PyTree, strongly_typed


class Streams(NamedTuple):
    """Disjoint random streams of one root key, so that held-out tasks are never those of training."""

    init: Key
    """θ at the start"""
    train: Key
    """iteration i of training draws from ``fold_in(train, i)``"""
    evaluate: Key
    """held-out tasks and their episodes"""


def streams(key: Key) -> Streams:
    """The named streams of a root key.

    Raises:
        ValueError: the key is not a typed key.
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key is {key!r}; it must be a typed key, as jax.random.key(seed) makes it")
    return Streams(*(jax.random.fold_in(key, stream) for stream in range(len(Streams._fields))))


class NonFiniteError(FloatingPointError):
    """A metric, θ or the optimiser's state became NaN or infinite.

    Attributes:
        iteration: at which it happened, counted from 0.
        metric: its name; "state" if every metric was finite but the updated state was not.
        metrics: the metrics of this chunk's iterations before that one, leaves [n, ...].
    """

    def __init__(self, iteration: int, metric: str, value: Any, metrics: dict[str, np.ndarray]):
        self.iteration, self.metric, self.metrics = iteration, metric, metrics
        super().__init__(f"iteration {iteration}: {metric!r} is {value}")


class Chunk(NamedTuple):
    """A run of consecutive meta-iterations."""

    start: int
    """its first iteration, counted from 0"""
    state: MetaState
    """after its last iteration. The next chunk donates these buffers: copy what must outlive it"""
    metrics: dict[str, np.ndarray]
    """of every iteration; leaves [n, ...]"""
    seconds: float
    """wall-clock time, compilation included"""


def _all_finite(tree: PyTree) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves] or [True]).all()


@functools.partial(jax.jit, static_argnames=("update", "capacity"), donate_argnames="state")
def _run(update: Callable, capacity: int, count: jax.Array, key: Key, state: MetaState):
    """`count` ≤ `capacity` meta-iterations from state.iteration on; metrics [capacity, ...], of which `count` are set.

    The count is an argument, not a shape: chunks of every length are the same program. So nothing is compiled for a
    remainder, and where chunks begin and end cannot change a number.
    """

    def step(i, carry):
        state, buffers = carry
        state, metrics = update(jax.random.fold_in(key, state.iteration), state)
        buffers = jax.tree.map(lambda buffer, value: buffer.at[i].set(value), buffers, (metrics, _all_finite(state)))
        return state, buffers

    metrics = jax.eval_shape(update, key, state)[1]
    buffers = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), metrics)
    return jax.lax.fori_loop(0, count, step, (state, (buffers, jnp.ones(capacity, bool))))


def _check_finite(start: int, metrics: dict[str, np.ndarray], state_finite: np.ndarray) -> None:
    for i, finite in enumerate(state_finite):
        before = {name: values[:i] for name, values in metrics.items()}
        for name, values in metrics.items():
            if not np.isfinite(values[i]).all():
                raise NonFiniteError(start + i, name, values[i], before)
        if not finite:
            raise NonFiniteError(start + i, "state", "not finite after the update", before)


def train(
    algorithm: MetaAlgorithm,
    key: Key,
    iterations: int,
    *,
    state: MetaState | None = None,
    chunk: int = 50,
    seconds: float = 2.0,
) -> Iterator[Chunk]:
    """Meta-trains until `iterations` meta-updates are done, yielding after every chunk of them.

    The first chunk is one iteration long; later ones last about `seconds`. A chunk also ends at every multiple of
    `chunk`, where a checkpoint can be taken. Numbers depend on the key and the state alone: neither on where chunks
    end, nor on how often the loop was stopped and resumed from a yielded state.

    Args:
        algorithm: what to run.
        key: the root key; see `streams`.
        iterations: the count at which to stop, those that `state` has behind it included.
        state: where to go on; None starts from ``algorithm.init(streams(key).init)``. It is copied, not donated.
        chunk: the most iterations between two yields.
        seconds: the time between two yields that is aimed at.

    Raises:
        ValueError: a size is not positive, or the key is not typed.
        NonFiniteError: a metric, θ or the optimiser's state became NaN or infinite.
    """
    for name, value in (("iterations", iterations), ("chunk", chunk), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"{name} is {value!r}; it must be positive")
    keys = streams(key)
    state = algorithm.init(keys.init) if state is None else state
    # Jitted, so that asking for the metrics' shapes and looping over it trace the algorithm once, not twice.
    return _chunks(jax.jit(algorithm.update), keys.train, iterations, state, chunk, seconds)


def _chunks(update, key, iterations, state, chunk, seconds):
    # Strongly typed, fresh buffers: a weakly typed initial state would compile the program twice, and donating the
    # caller's own arrays before the first chunk is asked for would be a surprise.
    state = jax.tree.map(jnp.array, strongly_typed(state))
    done, count = int(state.iteration), 1
    while done < iterations:
        count = min(count, iterations - done, chunk - done % chunk)
        started = time.perf_counter()
        state, (metrics, finite) = _run(update, chunk, jnp.int32(count), key, state)
        metrics, finite = jax.device_get((metrics, finite))
        elapsed = time.perf_counter() - started
        metrics = {name: values[:count] for name, values in metrics.items()}
        _check_finite(done, metrics, finite[:count])
        yield Chunk(done, state, metrics, elapsed)
        done += count
        # At most doubling, so that the compilation time within the first chunk is forgotten quickly but safely.
        count = max(1, min(2 * count, round(count * seconds / elapsed))) if done > 1 else 1
