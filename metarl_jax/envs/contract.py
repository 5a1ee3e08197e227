"""Checks an object against the environment contract and describes each violation in one sentence.

Most environment bugs raise no error: a goal leaks into the observation, a reset redraws the task, a simulation diverges
unnoticed. The learning curve then rises for the wrong reason.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import observations
from metarl_jax.actions import uniform
from metarl_jax.envs.frozen import frozen_reads
from metarl_jax.envs.interface import interface, numbers, optional, traced
from metarl_jax.soundness import LIMITS
from metarl_jax.types import PyTree, strongly_typed

LANES, LEAST_STEPS, MOST_STEPS = 16, 100, 1000

_compiled = jax.jit  # one program steps all lanes; tests replace it


def faults(env: Any, random_start: bool, shared_dynamics: bool | None, key: jax.Array | None) -> tuple[str, ...]:
    """The faults of an environment, one sentence each; empty if there are none.

    The check traces `sample_task`, `reset`, `step` and, where there are any, `sample_tasks` and `measure`. It looks for
    variables besides the key that `sample_task` reads (see `metarl_jax.envs.frozen`). It then runs 16 pairs of tasks
    for 100 steps or one episode, or for longer until a reward depends on the task. Each pair runs twice with random
    actions and once with extreme ones. The same keys and actions in different tasks show the effects of the task; the
    same tasks with other keys and actions show which of these effects are constant.

    It does not detect faults that appear after more steps, a task that is redrawn or a state that is reset in the
    middle of an episode, or an observation that reveals the task with noise or only in combination with the state.

    Args:
        env: a `metarl_jax.TaskEnv`, or any object with its fields.
        random_start: whether initial states should vary between episodes.
        shared_dynamics: True if tasks should differ in their rewards only, so that no observation may depend on the
            task; None or False if they may differ in their physics.
        key: random key; None: ``jax.random.key(0)``.
    """
    key = jax.random.key(0) if key is None else key
    for stage in (interface(env), traced(env, key), optional(env, key)):
        sentences = tuple(stage)
        if sentences:  # the later checks could not run
            return sentences
    return (
        *_tasks(env, key),
        *frozen_reads(env.sample_task, key),
        *_behavior(_run(env, key), random_start, shared_dynamics),
    )


def _tasks(env: Any, key: jax.Array) -> Iterator[str]:
    draw = jax.jit(jax.vmap(env.sample_task))
    tasks = [numbers(leaf).reshape(64, -1) for leaf in jax.tree.leaves(draw(jax.random.split(key, 64)))]
    if all(len(np.unique(leaf, axis=0)) == 1 for leaf in tasks):
        yield "sample_task gives the same task for every key"
    if not all(np.isfinite(leaf).all() for leaf in tasks if leaf.dtype.kind == "f"):
        yield "sample_task gives tasks that are NaN or infinite"


class _Runs(NamedTuple):
    """Groups of 16 lanes: tasks A and B with equal keys and actions; with other keys and actions; with extreme ones."""

    observation: np.ndarray
    """[group, lane, t, n] from reset on, all numbers of an observation"""
    reward: np.ndarray
    """[group, lane, t]; 0 at reset"""
    reached: np.ndarray
    """[group, lane, t] whether the episode was still running"""
    own_task: bool
    """whether a state has a field `task` that differs from the task passed in"""
    over: bool
    """whether an episode has ended at reset"""
    components: list[str]
    """[n] the place of each number in an observation, such as ``['picture'][0, 3, 1]``"""


A, B, OTHER_A, OTHER_B, EXTREME_A, EXTREME_B = GROUPS = tuple(range(6))


def _run(env: Any, key: jax.Array) -> _Runs:
    keys = jax.random.split(key, 7)
    first, second = (jax.vmap(env.sample_task)(jax.random.split(k, LANES)) for k in keys[:2])
    tasks = jax.tree.map(lambda a, b: jnp.concatenate([a, b] * 3), first, second)
    starts, others = jax.random.split(keys[2], LANES), jax.random.split(keys[3], LANES)
    resets = jnp.concatenate([starts, starts, others, others, starts, starts])

    def by_group(draw):  # both tasks of a pair get the same actions
        one, other, extreme = (draw(k) for k in keys[4:])
        return jnp.concatenate([one, one, other, other, 1e6 * extreme, 1e6 * extreme])

    def actions(t):
        if getattr(env, "discrete", False):
            one, other = (uniform(jax.random.fold_in(k, t), env, LANES) for k in keys[4:6])
            last = jnp.broadcast_to(np.array(env.action_size) - 1, one.shape)
            return jnp.concatenate([one, one, other, other, last, last])
        # Half of the noise is constant over time, so that the walk covers some distance and reaches sparse rewards.
        shape = (LANES, env.action_size)
        return by_group(lambda k: jax.random.normal(k, shape) + jax.random.normal(jax.random.fold_in(k, t), shape))

    reset, step = (_compiled(jax.vmap(function)) for function in (env.reset, env.step))
    state = strongly_typed(reset(resets, tasks))
    own_task = _own_task_differs(state, tasks)
    running = ~np.asarray(state.terminated | state.truncated, bool)
    over = not running.all()
    seen, rewards, reached = [_seen(state)], [np.zeros(len(running))], [running | True]
    depends = False
    for t in range(min(env.horizon, MOST_STEPS)):
        state = step(tasks, state, actions(t))
        reached.append(running.copy())
        seen.append(np.where(running[:, None], _seen(state), 0))
        rewards.append(np.where(running, np.asarray(state.reward), 0))
        own_task |= _own_task_differs(state, tasks)
        running &= ~np.asarray(state.terminated | state.truncated, bool)
        paid = rewards[-1].reshape(len(GROUPS), LANES)
        depends |= not np.array_equal(paid[::2], paid[1::2])
        if t + 1 >= LEAST_STEPS and depends:
            break

    def groups(record):
        return np.stack(record, 1).reshape(len(GROUPS), LANES, len(record), *record[0].shape[1:])

    components = [
        leaf.name + (str(list(map(int, place))) if leaf.shape else "")
        for leaf in observations.leaves_of(observations.shapes_of(env))
        for place in np.ndindex(*leaf.shape)
    ]
    return _Runs(groups(seen), groups(rewards), groups(reached), own_task, over, components)


def _seen(state: Any) -> np.ndarray:
    """[lane, n] the numbers of an observation in double precision, in which no integer of 32 bits is rounded."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.observation)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _own_task_differs(state: Any, tasks: PyTree) -> bool:
    state_task = getattr(state, "task", None)
    if state_task is None or jax.tree.structure(state_task) != jax.tree.structure(tasks):
        return False
    pairs = zip(jax.tree.leaves(state_task), jax.tree.leaves(tasks), strict=True)
    return not all(np.array_equal(numbers(a), numbers(b)) for a, b in pairs)


def _behavior(runs: _Runs, random_start: bool, shared_dynamics: bool | None) -> Iterator[str]:
    observation, reward = runs.observation, runs.reward
    if runs.over:
        yield "an episode is over at its reset: terminated or truncated is True there"
    if runs.own_task:
        yield "reset draws the task anew: the state's task is not the task that reset was given"
    for group, kind in ((slice(A, EXTREME_A), "random"), (slice(EXTREME_A, None), "extreme (±1e6)")):
        for name, values in (("observation", observation[group]), ("reward", reward[group])):
            broken = ~(np.abs(values) <= LIMITS[name])  # the rollout's limits, beyond which an episode is void
            if broken.any():
                first = min(map(tuple, np.argwhere(broken)), key=lambda place: place[2])
                what = "too large" if np.isfinite(values[first]) else "NaN or infinite"
                component = "".join(runs.components[i] for i in first[3:])
                yield (
                    f"{kind} actions make the {name} {what}, first after {first[2]} steps: "
                    f"{name}{component} is {values[first]:.6g}, and beyond ±{LIMITS[name]:g} an episode counts nowhere"
                )
    if random_start and (observation[A, :, 0] == observation[A, :1, 0]).all():
        yield (
            "every episode starts alike: the observation at reset is the same for every key "
            "(if that is meant: random_start=False)"
        )

    difference, elsewhere = (
        np.nan_to_num(observation[one] - observation[two], posinf=0, neginf=0)
        * (runs.reached[one] & runs.reached[two])[..., None]
        for one, two in ((A, B), (OTHER_A, OTHER_B))
    )
    if (difference[:, 0] != 0).any():
        yield "the observation at reset shows the task: it differs between tasks for the same key"
    elif shared_dynamics and (difference != 0).any():
        yield "the observation depends on the task, which was meant to change rewards only"
    elif _constant_offset(difference, elsewhere):
        yield "the observation shows the task after the first step: it differs between tasks whatever is done"
    if np.array_equal(reward[::2], reward[1::2], equal_nan=True) and not (difference != 0).any():
        if np.ptp(reward[:, :, 1:]) == 0:
            yield (
                "no task made a difference: every reward was the same, so rewards ignore the task, or they are too "
                "sparse for random actions to meet one"
            )
        else:
            yield (
                "rewards ignore the task: the same key and actions give the same rewards and observations in every "
                "task (does the environment draw a task of its own?)"
            )


def _constant_offset(difference: np.ndarray, elsewhere: np.ndarray) -> bool:
    """Whether some component differs between two tasks by an offset that is independent of keys, actions and time."""
    first = difference[:, 1:2]
    steps = difference.shape[1] - 1
    varies = np.zeros(difference.shape[2:], bool)
    for values in (difference[:, 1:], elsewhere[:, 1:]):
        ended = (values == 0).all(-1)  # after the end of an episode the difference is 0
        varies |= (np.where(ended[..., None], 0, np.abs(values - first)) > 1e-5 * (1 + np.abs(first))).any((0, 1))
    return bool((~varies & (np.abs(first) > 1e-3).any((0, 1))).any()) and steps > 1
