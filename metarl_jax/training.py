"""The training loop: compiled chunks of meta-iterations, yielded to Python between log points. No disk, no printing."""

import atexit
import functools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.base import MetaAlgorithm
from metarl_jax.chunks import initial_state, run_chunk, starting
from metarl_jax.guard import ON_NONFINITE, first_void, guarded, unguarded, without_episode
from metarl_jax.sharing import program
from metarl_jax.types import Key, MetaState, is_key

GRACE = 3.0
"""seconds that a process which was interrupted waits for a running chunk before it exits"""

LONGEST = 1000
"""maximum number of iterations per chunk, because a metrics buffer of this length is allocated"""


class Streams(NamedTuple):
    """Disjoint random streams of one root key, so that held-out tasks differ from training tasks."""

    init: Key
    """initialisation of θ"""
    train: Key
    """training: iteration i draws from ``fold_in(train, i)``"""
    evaluate: Key
    """held-out tasks and their episodes"""


def streams(key: Key) -> Streams:
    """The named streams of a root key, or of an array of root keys.

    Args:
        key: one key, or an array of keys of any shape, such as one per seed.

    Raises:
        ValueError: the key is not a typed key.
    """
    if not (isinstance(key, jax.Array) and is_key(key)):
        raise ValueError(f"key is {key!r}; it must be a typed key, as jax.random.key(seed) makes it")
    return Streams(*(_of_each(jax.random.fold_in, key)(key, stream) for stream in range(len(Streams._fields))))


def _of_each(function: Callable, key: Key) -> Callable:
    """``function(key, ·)``, mapped over `key` if that is an array of keys."""
    return jax.vmap(function, (0, None)) if key.ndim else function


class NonFiniteError(FloatingPointError):
    """Too many consecutive updates were undone: a metric or the new state was not finite, or all episodes were void.

    Attributes:
        iteration: the last undone iteration, counted from 0.
        metric: name of the metric that was not finite; "state" if all metrics were finite but the updated state was
            not, "diverged_episodes" if all episodes were void.
        seed: index of the seed, counted from 0; None for a single seed.
        metrics: metrics of the chunk's iterations before `iteration`, leaves [n, ...].
        state: after `iteration`, with its update undone (see `metarl_jax.guard.guard`).
    """

    def __init__(self, iteration: int, metric: str, seed: int | None, value: Any, failures: int, chunk: "Chunk"):
        self.iteration, self.metric, self.seed = iteration, metric, seed
        self.metrics, self.state = chunk.metrics, chunk.state
        where = "" if seed is None else f" of seed number {seed}"
        value = value if isinstance(value, str) else f"is {value}"
        streak = "" if failures == 1 else f", the last of {failures} iterations in a row that are not finite"
        super().__init__(f"iteration {iteration}: {metric!r}{where} {value}{streak}")


class Chunk(NamedTuple):
    """A run of consecutive meta-iterations."""

    start: int
    """first iteration, counted from 0"""
    state: MetaState
    """after the last iteration; `opt_state` is a `metarl_jax.guard.Guarded`, and `metarl_jax.guard.unguarded` gives the
    state that ``algorithm.update`` takes. The next chunk reads these buffers while it runs, so do not donate them"""
    metrics: dict[str, np.ndarray]
    """one entry per iteration; leaves [n, ...], with R seeds [n, R, ...]"""
    seconds: float
    """wall-clock time of the chunk, including compilation but not the caller's own work"""

    @property
    def done(self) -> int:
        """Number of iterations done at the end of the chunk."""
        return self.start + len(next(iter(self.metrics.values())))


def why_void(algorithm: MetaAlgorithm, key: Key, iteration: int, state: MetaState, seed: int | None) -> str | None:
    """The number that made an episode of this iteration void, as reported by `metarl_jax.guard.first_void`.

    Args:
        algorithm: not guarded.
        key: the root key, or one for each of R seeds.
        iteration: counted from 0.
        state: a state close to that iteration, guarded or not; [R, ...] for R seeds.
        seed: index of the seed; None for a single seed.
    """
    keys = streams(key).train
    if seed is not None:
        keys, state = keys[seed], jax.tree.map(lambda leaf: leaf[seed], state)
        algorithm = algorithm._replace(update=program(algorithm.update).row(seed))
    return first_void(algorithm, jax.random.fold_in(keys, iteration), unguarded(state))


def check_finite(chunk: Chunk, failures: np.ndarray, patience: int, why: Callable[..., str | None]) -> None:
    """Raises NonFiniteError if `patience` updates in a row were undone, which the last of the chunk's iterations shows.

    Args:
        chunk: the last iterations.
        failures: [] or, for R seeds, [R]: the number of updates in a row that were undone.
        patience: as for `train`.
        why: ``(iteration, state, seed) → cause``, asked if all episodes were void.
    """
    if failures.max() < patience:
        return
    seed = int(failures.argmax()) if failures.ndim else None

    def last(values):
        return values[-1] if seed is None else values[-1, seed]

    final = {name: last(values) for name, values in chunk.metrics.items()}
    nonfinite = {name: value for name, value in final.items() if not np.isfinite(value).all()}
    name, value = next(iter(nonfinite.items()), ("state", "is not finite after the update"))
    if without_episode(final):
        # With several processes no process has the whole state.
        cause = why(chunk.done - 1, chunk.state, seed) if jax.process_count() == 1 else None
        name, value = "diverged_episodes", f"is {final['diverged_episodes']}, all of them"
        value += f": {cause}" if cause else ""
    before = {name: values[:-1] for name, values in chunk.metrics.items()}
    raise NonFiniteError(chunk.done - 1, name, seed, value, int(failures.max()), chunk._replace(metrics=before))


def train(
    algorithm: MetaAlgorithm,
    key: Key,
    iterations: int,
    *,
    state: MetaState | None = None,
    chunk: int = 50,
    seconds: float = 2.0,
    on_nonfinite: str = "abort",
    patience: int = 10,
    pace: Callable[[int], int] = lambda count: count,
) -> Iterator[Chunk]:
    """Meta-trains until `iterations` meta-updates are done, yielding after each chunk of them.

    The first chunk is one iteration long; later chunks take about `seconds`. A chunk also ends at each multiple of
    `chunk`, where a checkpoint can be written. Results depend only on the key and the state, not on chunk boundaries or
    on how often the loop was stopped and resumed from a yielded state.

    The next chunk runs on the device while the caller processes the current one. If several devices share a chunk, the
    next chunk starts only when the caller returns, because two programs with collective operations, this one and one of
    the caller's, must not run concurrently.

    With an array of R keys, R independent runs are trained in one program, with vmap, or in sequence on a CPU; all
    leaves of the state are then [R, ...]. Their numbers may differ, see `metarl_jax.sharing.stacked`. Under a mesh of
    `metarl_jax.devices`, tasks and seeds are sharded over its devices.

    Args:
        algorithm: the algorithm to train.
        key: the root key, or one for each of R seeds; see `streams`.
        iterations: total number of meta-updates, including those already done by `state`.
        state: the state to resume from; None starts from ``algorithm.init(streams(key).init)``.
        chunk: maximum number of iterations between two yields (at most `LONGEST`), and the number of iterations between
            two anchors of "rollback".
        seconds: target time between two yields.
        on_nonfinite: how to handle an update that yields NaN or infinity, or whose episodes are all void: "abort"
            undoes it and stops, "skip" undoes it and continues, "rollback" continues from the last anchor; see
            `metarl_jax.guard.guard`.
        patience: number of consecutive undone updates after which "skip" and "rollback" stop.
        pace: hook that maps a proposed chunk length to the length used; 0 stops. It is called when a chunk has ended,
            before that chunk is yielded. Multi-process runs use it to agree on a length, because the proposal depends
            on measured time.

    Raises:
        ValueError: a size is not positive, the key is not typed, or a name is unknown.
        NonFiniteError: too many consecutive updates were undone. If all episodes were void, the message names the
            observation or reward that diverged.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=5)
        >>> algorithm = mrl.algorithms.make("promp", env, tasks=2, episodes=3)
        >>> for chunk in mrl.training.train(algorithm, jax.random.key(0), iterations=4, chunk=2):
        ...     last = chunk
        >>> last.done, int(last.state.iteration)
        (4, 4)
        >>> last.metrics["return"].shape[1:]  # of each iteration of the chunk
        (2,)
    """
    for name, value in {"iterations": iterations, "chunk": chunk, "patience": patience}.items():
        checks.integer(name, value)
    checks.positive("seconds", seconds)
    checks.one_of("on_nonfinite", on_nonfinite, ON_NONFINITE)
    keys = streams(key)
    if on_nonfinite == "abort":
        patience = 1
    if state is None:
        state = initial_state(program(algorithm.init), keys.init)
    # Arrays, since a thread that launches chunks does not know the precision that the caller may have set for its own.
    capacity, update = min(chunk, LONGEST), jax.tree.map(jnp.asarray, program(algorithm.update))
    lower = functools.partial(run_chunk.lower, capacity, patience, on_nonfinite, chunk, update)

    def compiled(*arguments):
        return functools.partial(lower(*arguments).compile(), update)

    why = functools.partial(why_void, algorithm, key)
    return _chunks(compiled, keys.train, iterations, state, chunk, capacity, seconds, patience, pace, why)


def _beside(function: Callable, *arguments: Any) -> Callable[[], Any]:
    """Starts the call in a background thread; returns ``() → result``.

    Asynchronous dispatch is not enough: if the host reads the condition of a while loop, as XLA does on GPUs, the
    dispatching thread is blocked until the loop ends. The thread also measures the end time exactly.
    """
    future = Future()

    def work():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=work, name="chunks", daemon=True)
    _awaited.add(thread)
    thread.start()

    def result():
        try:
            return future.result()
        except BaseException:
            if not future.done():  # whoever interrupts this does not want an endless program to keep the process
                _awaited.discard(thread)
            raise

    return result


_awaited: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
"""Threads that a process waits for before it exits."""


@atexit.register
def _wait_for_chunks() -> None:
    """Python ends daemon threads as they return to it, which aborts the process inside of XLA's call."""
    for thread in threading.enumerate():
        if thread.name == "chunks":
            thread.join(None if thread in _awaited else GRACE)


def _timed(program: Callable, *arguments: Any) -> tuple[Any, float]:
    """The program's result, once it is ready, and the seconds it took."""
    started = time.perf_counter()
    return jax.block_until_ready(program(*arguments)), time.perf_counter() - started


def _fetched(start: int, state: MetaState, outputs: Any, seconds: float, patience: int, why: Callable) -> Chunk:
    """The finished chunk on the host; raises NonFiniteError if too many updates were undone."""
    metrics, ran, failures = jax.device_get(outputs)
    chunk = Chunk(start, state, {name: values[:ran] for name, values in metrics.items()}, seconds)
    check_finite(chunk, failures, patience, why)
    return chunk


def _chunks(compiled, key, iterations, state, chunk, capacity, seconds, patience, pace, why):
    done, length, finished = int(np.max(state.iteration)), 1, None
    state = starting(guarded(state), key, patience)

    @functools.cache
    def run():  # compiled in the caller's thread, where the mesh is set
        return compiled(jnp.int32(1), key, state)

    launch = _beside if len(state.iteration.sharding.device_set) == 1 else functools.partial
    while True:
        length = pace(min(length, capacity, iterations - done, chunk - done % chunk)) if done < iterations else 0
        launched = time.perf_counter()
        wait = launch(_timed, run(), jnp.int32(length), key, state) if length else None
        compilation = time.perf_counter() - launched
        # After a chunk that exhausted the patience the next chunk runs no iteration, and its result is not used.
        if finished is not None:
            yield _fetched(*finished, patience, why)
        if wait is None:
            return
        (state, outputs), elapsed = wait()
        elapsed += compilation
        finished = (done, state, outputs, elapsed)
        done += length
        # At most double the length, so that the compilation time in the first chunk loses its influence gradually.
        length = max(1, min(2 * length, round(length * seconds / elapsed))) if done > 1 else 1
