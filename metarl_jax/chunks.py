"""A chunk of meta-iterations as one compiled program."""

import functools

import jax
import jax.numpy as jnp

from metarl_jax.devices import SEEDS, by_share, count, replicated, split
from metarl_jax.guard import guard
from metarl_jax.sharing import Program
from metarl_jax.types import Key, MetaState, strongly_typed


# The state is not donated: the input state was yielded, and the caller may still read it while this runs.
@functools.partial(jax.jit, static_argnames=("capacity", "patience", "on_nonfinite", "every"))
def run_chunk(
    capacity: int,
    patience: int,
    on_nonfinite: str,
    every: int,
    update: Program,
    count: jax.Array,
    key: Key,
    state: MetaState,
):
    """`count` ≤ `capacity` meta-iterations from state.iteration on, fewer once `patience` in a row were undone.

    The count is a traced argument, so chunks of all lengths share one compiled program. A shorter last chunk needs no
    compilation, and chunk boundaries cannot change a number. The numbers of the update are arguments too, see
    `metarl_jax.sharing`.

    Args:
        capacity: length of the metrics buffers, iterations.
        patience: number of consecutive undone updates that ends the chunk.
        on_nonfinite: see `metarl_jax.guard.guard`.
        every: iterations between two anchors of a rollback.
        update: of the algorithm; its numbers are [] or, for R runs, [R].
        count: [] int, iterations to do.
        key: of the training stream, [] or [R].
        state: guarded; leaves [...] or [R, ...].

    Returns:
        The state, and, replicated to all processes: metrics [capacity, ...], the number of iterations run (whose
        metrics are set), and the number of consecutive undone updates.
    """
    # Jitted so that eval_shape of the metrics and the loop share one trace of the algorithm.
    advance = jax.jit(functools.partial(_advance, on_nonfinite, every))

    def step(carry):
        i, state, buffers = carry
        state, metrics = advance(update, key, state)
        return i + 1, state, jax.tree.map(lambda buffer, value: buffer.at[i].set(value), buffers, metrics)

    def going_on(carry):
        i, state, _ = carry
        return (i < count) & (state.opt_state.failures.max() < patience)

    metrics = jax.eval_shape(advance, update, key, state)[1]
    buffers = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), metrics)
    done, state, metrics = jax.lax.while_loop(going_on, step, (jnp.int32(0), state, buffers))
    return _settled(state, key), replicated((metrics, done, state.opt_state.failures))


def _advance(on_nonfinite: str, every: int, update: Program, key: Key, state: MetaState):
    """One guarded meta-iteration of a run, or of one run per key."""

    def one(update, key, state):
        return replicated(guard(update, on_nonfinite, every)(jax.random.fold_in(key, state.iteration), state))

    runs = (update.rows(key), key, state)
    if not key.ndim:
        return one(*runs)
    if jax.default_backend() == "cpu":  # runs in sequence: the caches hold the arrays of few tasks
        return split(by_share(lambda share: jax.lax.map(lambda run: one(*run), share), runs, SEEDS), SEEDS)
    axis = SEEDS if count(SEEDS) > 1 else None
    return split(jax.vmap(one, spmd_axis_name=axis)(*runs), SEEDS)


def _settled(state: MetaState, key: Key) -> MetaState:
    """The state with the sharding of chunk inputs and outputs: each seed on its devices, replicated among them."""
    return split(state, SEEDS) if key.ndim else replicated(state)


@functools.partial(jax.jit, static_argnames="patience")
def starting(state: MetaState, key: Key, patience: int) -> MetaState:
    """The initial state with the sharding and dtypes that the compiled program expects."""
    # A run resumed with a smaller `patience` may already have more failures than that.
    guard_state = state.opt_state.replace(failures=jnp.minimum(state.opt_state.failures, patience - 1))
    return _settled(strongly_typed(MetaState(state.params, guard_state, state.iteration)), key)


def initial_state(init: Program, key: Key) -> MetaState:
    """The state before the first iteration of a run, or of one run per key: leaves [R, ...]."""
    init = init.rows(key)
    return jax.vmap(lambda init, key: init(key))(init, key) if key.ndim else init(key)
