"""The training loop: compiled chunks of meta-iterations, yielded to Python between log points. No disk, no printing."""

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.base import MetaAlgorithm
from metarl_jax.devices import SEEDS, by_share, count, replicated, split
from metarl_jax.guard import first_void, guard, guarded, unguarded, without_episode
from metarl_jax.types import Key, MetaState, strongly_typed

LONGEST = 1000
"""iterations between two yields at the most, since room for the metrics of so many is held"""


class Streams(NamedTuple):
    """Disjoint random streams of one root key, so that held-out tasks are never those of training."""

    init: Key
    """θ at the start"""
    train: Key
    """iteration i of training draws from ``fold_in(train, i)``"""
    evaluate: Key
    """held-out tasks and their episodes"""


def streams(key: Key) -> Streams:
    """The named streams of a root key, or of several at once.

    Args:
        key: of any shape; that of a run, or one for each of R seeds.

    Raises:
        ValueError: the key is not a typed key.
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key is {key!r}; it must be a typed key, as jax.random.key(seed) makes it")
    return Streams(*(_of_each(jax.random.fold_in, key)(key, stream) for stream in range(len(Streams._fields))))


def _of_each(function: Callable, key: Key) -> Callable:
    """``function(key, ·)`` for one key, or for each of an array of keys."""
    return jax.vmap(function, (0, None)) if key.ndim else function


class NonFiniteError(FloatingPointError):
    """Too many updates in a row were undone: a metric, θ or the optimiser's state was not finite, or no episode sound.

    Attributes:
        iteration: of the last of them, counted from 0.
        metric: its name; "state" if every metric was finite but the updated state was not, "diverged_episodes" if all
            episodes were void.
        seed: which of several seeds, counted from 0; None where there is one.
        metrics: those of this chunk's iterations before that one, leaves [n, ...].
        state: after it, so without what it would have changed (see `metarl_jax.guard.guard`).
    """

    def __init__(self, iteration: int, metric: str, seed: int | None, value: Any, failures: int, chunk: "Chunk"):
        self.iteration, self.metric, self.seed = iteration, metric, seed
        self.metrics, self.state = chunk.metrics, chunk.state
        where = "" if seed is None else f" of seed number {seed}"
        value = value if isinstance(value, str) else f"is {value}"
        row = "" if failures == 1 else f", the last of {failures} iterations in a row that are not finite"
        super().__init__(f"iteration {iteration}: {metric!r}{where} {value}{row}")


class Chunk(NamedTuple):
    """A run of consecutive meta-iterations."""

    start: int
    """its first iteration, counted from 0"""
    state: MetaState
    """after its last iteration; `opt_state` is a `metarl_jax.guard.Guarded`, and `metarl_jax.guard.unguarded` gives the
    state that ``algorithm.update`` takes. The next chunk reads these buffers while it runs, so none may be donated"""
    metrics: dict[str, np.ndarray]
    """of every iteration; leaves [n, ...], with R seeds [n, R, ...]"""
    seconds: float
    """wall-clock time of its own, compilation included: not what the caller did meanwhile"""

    @property
    def done(self) -> int:
        """Iterations done after it."""
        return self.start + len(next(iter(self.metrics.values())))


# The state is not donated: the one that goes in was yielded, and is still to be read when this runs.
@functools.partial(jax.jit, static_argnames=("update", "capacity", "patience"))
def _run(update: Callable, capacity: int, patience: int, count: jax.Array, key: Key, state: MetaState):
    """`count` ≤ `capacity` meta-iterations from state.iteration on, fewer if `patience` in a row were undone.

    The count is an argument, not a shape: chunks of every length are the same program. So nothing is compiled for a
    remainder, and where chunks begin and end cannot change a number.

    Returns:
        state, and for the host, the same in all processes: metrics [capacity, ...], how many iterations were run, whose
        metrics are set, and how many in a row are undone now.
    """

    def step(carry):
        i, state, buffers = carry
        state, metrics = update(key, state)
        return i + 1, state, jax.tree.map(lambda buffer, value: buffer.at[i].set(value), buffers, metrics)

    def going_on(carry):
        i, state, _ = carry
        return (i < count) & (state.opt_state.failures.max() < patience)

    metrics = jax.eval_shape(update, key, state)[1]
    buffers = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), metrics)
    done, state, metrics = jax.lax.while_loop(going_on, step, (jnp.int32(0), state, buffers))
    return _settled(state, key), replicated((metrics, done, state.opt_state.failures))


def why_void(algorithm: MetaAlgorithm, key: Key, iteration: int, state: MetaState, seed: int | None) -> str | None:
    """The number that made the first of an iteration's episodes void, as `metarl_jax.guard.first_void` tells it.

    Args:
        algorithm: not guarded.
        key: the root key, or one for each of R seeds.
        iteration: counted from 0.
        state: near it, guarded or not; of R seeds [R, ...].
        seed: which of them; None where there is one.
    """
    keys = streams(key).train
    if seed is not None:
        keys, state = keys[seed], jax.tree.map(lambda leaf: leaf[seed], state)
    return first_void(algorithm, jax.random.fold_in(keys, iteration), unguarded(state))


def _check_finite(chunk: Chunk, failures: np.ndarray, patience: int, why: Callable[..., str | None]) -> None:
    if failures.max() < patience:
        return
    seed = int(failures.argmax()) if failures.ndim else None

    def last(values):
        return values[-1] if seed is None else values[-1, seed]

    now = {name: last(values) for name, values in chunk.metrics.items()}
    bad = {name: value for name, value in now.items() if not np.isfinite(value).all()}
    name, value = next(iter(bad.items()), ("state", "is not finite after the update"))
    if without_episode(now):
        # Of several processes none has the whole state.
        cause = why(chunk.done - 1, chunk.state, seed) if jax.process_count() == 1 else None
        name, value = "diverged_episodes", f"is {now['diverged_episodes']}, all of them"
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
    """Meta-trains until `iterations` meta-updates are done, yielding after every chunk of them.

    The first chunk is one iteration long; later ones last about `seconds`. A chunk also ends at every multiple of
    `chunk`, where a checkpoint can be taken. Numbers depend on the key and the state alone: neither on where chunks
    end, nor on how often the loop was stopped and resumed from a yielded state.

    A device does not wait for the caller: while this works with one chunk, the next one runs. Where several devices
    share a chunk it starts once the caller comes back, since two programs that communicate, this one and another of the
    caller's, must not meet.

    With an array of R keys, R independent runs are trained in one program, by vmap, or in turn on a CPU: every leaf of
    the state then is [R, ...]. Under a mesh of `metarl_jax.devices`, tasks and seeds are spread over its devices.

    Args:
        algorithm: what to run.
        key: the root key, or one for each of R seeds; see `streams`.
        iterations: the count at which to stop, those that `state` has behind it included.
        state: where to go on; None starts from ``algorithm.init(streams(key).init)``.
        chunk: the most iterations between two yields, which `LONGEST` limits too, and the iterations between two
            anchors of "rollback".
        seconds: the time between two yields that is aimed at.
        on_nonfinite: what becomes of an update that yields NaN or infinity, or that has no episode which is not void:
            "abort" undoes it and stops, "skip" undoes it and goes on, "rollback" goes on from the last anchor; see
            `metarl_jax.guard.guard`.
        patience: how many such updates in a row "skip" and "rollback" put up with before they stop.
        pace: the next chunk's length, given the one that is proposed; 0 ends the loop. Asked once the chunk before
            has ended, before that one is yielded. Processes that train together agree by it, since the proposal
            depends on time.

    Raises:
        ValueError: a size is not positive, the key is not typed, or a name is unknown.
        NonFiniteError: too many updates in a row were undone. Where all episodes were void it names the number of the
            observation or the reward that was not sound.

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
    keys = streams(key)
    update = guard(algorithm.update, on_nonfinite, chunk)
    if on_nonfinite == "abort":
        patience = 1
    if state is None:
        state = (jax.vmap(algorithm.init) if key.ndim else algorithm.init)(keys.init)

    def one(key, state):
        return replicated(update(jax.random.fold_in(key, state.iteration), state))

    def several(key, state):
        if jax.default_backend() == "cpu":  # one seed after the other, since its caches hold the arrays of few tasks
            rows = by_share(lambda rows: jax.lax.map(lambda row: one(*row), rows), (key, state), SEEDS)
            return split(rows, SEEDS)
        spread = SEEDS if count(SEEDS) > 1 else None
        return split(jax.vmap(one, spmd_axis_name=spread)(key, state), SEEDS)

    # Jitted, so that asking for the metrics' shapes and looping over it trace the algorithm once, not twice.
    capacity = min(chunk, LONGEST)
    advance = functools.partial(_run.lower, jax.jit(several if key.ndim else one), capacity, patience)
    why = functools.partial(why_void, algorithm, key)
    return _chunks(advance, keys.train, iterations, state, chunk, capacity, seconds, patience, pace, why)


def _settled(state: MetaState, key: Key) -> MetaState:
    """The state where a chunk takes and leaves it: each seed on its devices, and whole on each of these."""
    return split(state, SEEDS) if key.ndim else replicated(state)


@functools.partial(jax.jit, static_argnames="patience")
def _start(state: MetaState, key: Key, patience: int) -> MetaState:
    """The state as the loop hands it on, on the same devices and of the same types: the program takes no other."""
    # A run that had more patience when it was stopped goes on with what it has now.
    memory = state.opt_state.replace(failures=jnp.minimum(state.opt_state.failures, patience - 1))
    return _settled(strongly_typed(MetaState(state.params, memory, state.iteration)), key)


def _beside(function: Callable, *arguments: Any) -> Callable[[], Any]:
    """Begins work in a thread of its own, ``() → result``.

    Asynchronous dispatch alone would not do: where the host reads the condition of a loop of unknown length, as XLA
    does on GPUs, who starts it is held until its end. And only who waits for nothing else knows when that was.
    """
    ended = Future()

    def work():
        try:
            ended.set_result(function(*arguments))
        except BaseException as error:
            ended.set_exception(error)

    # A daemon, since a process that has to end does not wait for a program that does not.
    threading.Thread(target=work, name="chunks", daemon=True).start()
    return ended.result


def _timed(program: Callable, *arguments: Any) -> tuple[Any, float]:
    """What a program returns, once it is there, and the seconds it took."""
    started = time.perf_counter()
    return jax.block_until_ready(program(*arguments)), time.perf_counter() - started


def _fetched(start: int, state: MetaState, told: Any, seconds: float, patience: int, why: Callable) -> Chunk:
    """A chunk that has ended; raises NonFiniteError where it may not be yielded."""
    metrics, ran, failures = jax.device_get(told)
    chunk = Chunk(start, state, {name: values[:ran] for name, values in metrics.items()}, seconds)
    _check_finite(chunk, failures, patience, why)
    return chunk


def _chunks(lower, key, iterations, state, chunk, capacity, seconds, patience, pace, why):
    done, length, ended = int(np.max(state.iteration)), 1, None
    state = _start(guarded(state), key, patience)

    @functools.cache
    def program():  # compiled in the caller's thread, which alone knows the mesh
        return lower(jnp.int32(1), key, state).compile()

    launch = _beside if len(state.iteration.sharding.device_set) == 1 else functools.partial
    while True:
        length = pace(min(length, capacity, iterations - done, chunk - done % chunk)) if done < iterations else 0
        began = time.perf_counter()
        running = launch(_timed, program(), jnp.int32(length), key, state) if length else None
        compilation = time.perf_counter() - began
        # Behind a chunk that used up the patience the next one runs no iteration, and nobody asks for it.
        if ended is not None:
            yield _fetched(*ended, patience, why)
        if running is None:
            return
        (state, told), elapsed = running()
        elapsed += compilation
        ended = (done, state, told, elapsed)
        done += length
        # At most doubling, so that the compilation time within the first chunk is forgotten quickly but safely.
        length = max(1, min(2 * length, round(length * seconds / elapsed))) if done > 1 else 1
