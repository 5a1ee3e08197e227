"""The tasks of a meta-iteration: independent draws, a batch that is drawn together, or a sampler that remembers."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import checks
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.entry import entry_points
from metarl_jax.policies.likelihood import mean_of_counted
from metarl_jax.soundness import PRIVATE, check_task, measured
from metarl_jax.types import Key, PyTree, Trajectory, numbered, strongly_typed

_RETURNS = PRIVATE[1]
_STREAM = 2**32 - 1
"""what a sampler's key is folded in with; far larger than the number of any task"""


class TaskSampler(NamedTuple):
    """A distribution over tasks that changes while θ is learned. All functions are jittable.

    Its state is part of the training's state: it is checkpointed, vmapped over seeds and resumed with it.

    Example, the goal's distance grows with the iterations:
        >>> def sample(state, key, count):
        ...     goals = jax.random.uniform(key, (count, 2), minval=-1, maxval=1) * jnp.minimum(state / 100, 0.5)
        ...     return mrl.envs.GoalTask(goals), state
        >>> growing = mrl.curriculum.TaskSampler(
        ...     init=lambda: jnp.zeros(()), sample=sample, update=lambda state, tasks, returns: state + 1
        ... )
        >>> env = mrl.envs.make("point-nav", horizon=5)
        >>> algorithm = mrl.algorithms.make("maml", env, tasks=2, episodes=3, task_sampler=growing)
        >>> state, metrics = jax.jit(algorithm.update)(jax.random.key(1), algorithm.init(jax.random.key(0)))
        >>> float(state.opt_state.sampler)
        1.0
    """

    init: Callable[[], PyTree]
    """``() → state`` at the start of training, arrays; its numbers must stay finite, or the update is undone"""
    sample: Callable[[PyTree, Key, int], tuple[PyTree, PyTree]]
    """``(state, key, B) → (tasks, state)``: the tasks of a meta-iteration, leaves [B, ...], and what to remember of
    them"""
    update: Callable[[PyTree, PyTree, jax.Array], PyTree]
    """``(state, tasks, returns) → state`` after it; returns is [B, S], the mean undiscounted return of each task's
    episodes by stage, NaN where all of them are void"""


_ARGUMENTS = {"init": (), "sample": ("state", "key", "count"), "update": ("state", "tasks", "returns")}


@struct.dataclass
class Sampled:
    """The state between meta-iterations of an algorithm with a task sampler, in the place of the optimiser's."""

    opt_state: PyTree
    """state of the outer optimiser"""
    sampler: PyTree
    """state of the task sampler"""


def task_of(key: Key, index: jax.Array, env: TaskEnv, count: int) -> tuple[PyTree, Key]:
    """Task `index` of the B = `count` tasks of a meta-iteration, and the key of all else that is drawn in it.

    Without `TaskEnv.sample_tasks` a task draws from ``fold_in(key, index)``, so it does not depend on B.

    Raises:
        ValueError: `sample_tasks` gives no tasks of this environment, or not B of them.
    """
    task_key, data_key = jax.random.split(jax.random.fold_in(key, index))
    if env.sample_tasks is None:
        return env.sample_task(task_key), data_key
    # Not a function of the index, so it is computed once for all tasks.
    tasks = env.sample_tasks(jax.random.fold_in(key, _STREAM), count)
    return jax.tree.map(lambda leaf: leaf[index], check_task(env, tasks, count)), data_key


def task_returns(trajectory: Trajectory) -> jax.Array:
    """Mean undiscounted return of each task's episodes by stage, [B, S]; NaN where all are void.

    As `TaskEnv.measure` it makes them a metric: ``measure=lambda d: {"task_returns": task_returns(d)}``. Metrics must
    be finite, so replace the NaN where simulations may diverge.

    Args:
        trajectory: leaves [B, S, N, T, ...].
    """
    counted = ~trajectory.void
    returns = mean_of_counted(jnp.where(trajectory.valid, trajectory.reward, 0).sum(-1), counted, -1)
    return jnp.where(counted.any(-1), returns, jnp.nan)


def with_sampler(
    build: Callable[[TaskEnv], MetaAlgorithm], env: TaskEnv, sampler: TaskSampler, count: int
) -> MetaAlgorithm:
    """The algorithm that `build` makes, trained on the tasks of a sampler.

    `adapt` and `gradient` know nothing of it: they stay those of the environment's own p(M), and so does evaluation.

    Args:
        build: makes the algorithm for an environment; its tasks are new in each meta-iteration.
        env: p(M) and its MDPs.
        sampler: what draws the tasks of `update`.
        count: B.

    Raises:
        ValueError: the sampler is none.
    """
    if not isinstance(sampler, TaskSampler):
        raise ValueError(f"task_sampler is {sampler!r}; it must be a metarl_jax.curriculum.TaskSampler")
    for name, arguments in _ARGUMENTS.items():
        checks.called_as(f"{name} of task_sampler", getattr(sampler, name), *arguments)
    plain = build(env)

    def init(key):
        state = plain.init(key)
        return dataclasses.replace(state, opt_state=Sampled(state.opt_state, strongly_typed(sampler.init())))

    def measure(trajectory):
        own = {} if env.measure is None else measured(env.measure, trajectory)
        return own | {_RETURNS: task_returns(trajectory)}

    def update(key, state):
        before = state.opt_state
        drawn = sampler.sample(before.sampler, jax.random.fold_in(key, _STREAM), count)
        if not isinstance(drawn, tuple) or len(drawn) != 2:
            raise ValueError(f"sample of task_sampler gives {drawn!r}; it must give (tasks, state)")
        tasks, remembered = check_task(env, drawn[0], count), drawn[1]
        here = dataclasses.replace(env, sample_tasks=lambda key, count: tasks, measure=measure)
        after, metrics = build(here).update(key, dataclasses.replace(state, opt_state=before.opt_state))
        metrics = dict(metrics)
        returns = metrics.pop(_RETURNS)  # es-maml has two trials in each task
        returns = returns.reshape(count, -1, returns.shape[-1])
        known = ~jnp.isnan(returns)
        mean = jnp.where(known.any(1), mean_of_counted(jnp.where(known, returns, 0), known, 1), jnp.nan)
        new = strongly_typed(sampler.update(remembered, tasks, mean))
        _check_state(before.sampler, new)
        return dataclasses.replace(after, opt_state=Sampled(after.opt_state, new)), metrics

    return entry_points(init, update, plain.adapt, plain.gradient, plain.policy, plain.online)


def _check_state(before: PyTree, after: PyTree) -> None:
    def spec(tree):
        return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]

    if spec(before) != spec(after):
        raise ValueError(
            f"task_sampler's state is {spec(after)} after an update and {spec(before)} at the start; its tree, shapes "
            "and dtypes must stay, such as jnp.zeros(()) for a number that counts"
        )


def stratified(tasks: PyTree) -> TaskSampler:
    """Each of M tasks equally often: B / M times in every batch, and a random part of them where M does not divide B.

    Args:
        tasks: leaves [M, ...], such as both directions of a family.

    Raises:
        ValueError: the leaves have no common first axis.
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tasks)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(f"tasks must have leaves [M, ...] with one M > 0, and theirs are {sorted(sizes)}")
    ((number,),) = sizes

    def sample(state, key, count):
        order_key, shuffle_key = jax.random.split(key)
        order = jax.random.permutation(order_key, number)
        chosen = jax.random.permutation(shuffle_key, jnp.tile(order, -(-count // number))[:count])
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], tasks), state

    return TaskSampler(init=tuple, sample=sample, update=lambda state, tasks, returns: state)


@struct.dataclass
class Replay:
    """What `prioritized` remembers of the C tasks in its memory, leaves [C, ...]."""

    tasks: PyTree
    score: jax.Array
    """[C] finite, since training takes an infinity for a failure; 0 where the place is empty"""
    filled: jax.Array
    """[C] bool: the place holds a task"""
    place: jax.Array
    """[B] int: the places of the current tasks"""


def prioritized(
    sample_task: Callable[[Key], PyTree],
    score: Callable[[jax.Array], jax.Array],
    *,
    tasks: int,
    capacity: int = 256,
    replayed: float = 0.5,
    temperature: float = 0.3,
) -> TaskSampler:
    """Prioritised replay of tasks: those of high score come again, P(place) ∝ rank^(−1/temperature).

    A batch holds B·`replayed` tasks of the memory and as many new ones as are left; a new task takes the place of the
    lowest score. As long as the memory holds too few tasks, all are new. Jiang, Grefenstette, Rocktäschel (2021,
    arXiv:2010.03934), whose score is the mean size of the value's error and whose share of replay is drawn.

    Args:
        sample_task: ``key → task``, p(M).
        score: ``returns [B, S] → [B]``, higher for a task that is worth more practice; NaN counts as the lowest.
        tasks: B, the option `tasks` of the algorithm.
        capacity: C, tasks in the memory.
        replayed: share of a batch that is replayed.
        temperature: how little the rank matters.

    Raises:
        ValueError: a value is out of range, or the memory holds less than two batches.
    """
    checks.function("sample_task", sample_task)
    checks.function("score", score)
    checks.integer("tasks", tasks)
    power = 1 / checks.positive("temperature", temperature)
    old = round(tasks * checks.share("replayed", replayed))
    if checks.integer("capacity", capacity) < 2 * tasks:
        raise ValueError(f"capacity is {capacity}; the memory must hold at least two batches, {2 * tasks} tasks")

    def init():
        # Empty places need some task of the right shapes; its values are never used.
        one = jax.tree.map(jnp.asarray, sample_task(jax.random.key(0)))
        blank = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (capacity, *leaf.shape)), one)
        return Replay(blank, jnp.zeros(capacity), jnp.zeros(capacity, bool), jnp.zeros(tasks, jnp.int32))

    def sample(memory, key, count):
        if count != tasks:
            raise ValueError(f"tasks of prioritized is {tasks}, and the algorithm has {count}; give both the same")
        new_key, place_key = jax.random.split(key)
        fresh = jax.vmap(sample_task)(numbered(new_key, count))
        order = jnp.lexsort((-memory.score, ~memory.filled))  # places by rank, empty ones last
        weight = jnp.where(memory.filled[order], -power * jnp.log1p(jnp.arange(capacity)), -jnp.inf)
        # The Gumbel trick draws without replacement.
        drawn = order[jnp.argsort(-(weight + jax.random.gumbel(place_key, (capacity,))))[:count]]
        is_old = (jnp.arange(count) < old) & (memory.filled.sum() >= 2 * count)
        # A new task must not take the place of one that is played again.
        played = jnp.zeros(capacity, bool).at[drawn].set(is_old)
        lowest = jnp.lexsort((memory.score, memory.filled, played))
        place = jnp.where(is_old, drawn, lowest[jnp.cumsum(~is_old) - 1])
        batch = jax.tree.map(
            lambda a, b: jnp.where(is_old.reshape((-1,) + (1,) * (b.ndim - 1)), a[drawn], b), memory.tasks, fresh
        )
        return batch, memory.replace(place=place.astype(jnp.int32))

    def update(memory, batch, returns):
        value = jnp.asarray(score(returns))
        if value.shape != (tasks,):
            raise ValueError(f"score of prioritized gives {value.shape}; it must give one number per task, {(tasks,)}")
        value = value.astype(memory.score.dtype)
        value = jnp.nan_to_num(value, nan=float(jnp.finfo(value.dtype).min))
        kept = jax.tree.map(lambda all_, new: all_.at[memory.place].set(new), memory.tasks, batch)
        return memory.replace(
            tasks=kept,
            score=memory.score.at[memory.place].set(value),
            filled=memory.filled.at[memory.place].set(True),
        )

    return TaskSampler(init, sample, update)
