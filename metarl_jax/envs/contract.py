"""Checks an object against the environment contract and describes each violation in one sentence.

Most environment bugs raise no error: a goal leaks into the observation, a reset redraws the task, a simulation diverges
unnoticed. The learning curve then rises for the wrong reason.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.actions import check_size, uniform, zero_action
from metarl_jax.envs.frozen import frozen_reads
from metarl_jax.soundness import LIMITS
from metarl_jax.types import PyTree, strongly_typed

LANES, LEAST_STEPS, MOST_STEPS = 16, 100, 1000
FIELDS = ("observation", "reward", "terminated", "truncated")

_compiled = jax.jit  # one program steps all lanes; tests replace it


def faults(env: Any, random_start: bool, shared_dynamics: bool | None, key: jax.Array | None) -> tuple[str, ...]:
    """The faults of an environment, one sentence each; empty if there are none.

    The check traces `sample_task`, `reset` and `step`, and looks for variables besides the key that `sample_task` reads
    (see `metarl_jax.envs.frozen`). It then runs 16 pairs of tasks for 100 steps or one episode, or for longer until a
    reward depends on the task. Each pair runs twice with random actions and once with extreme ones. The same keys and
    actions in different tasks show the effects of the task; the same tasks with other keys and actions show which of
    these effects are constant.

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
    for stage in (_interface(env), _traced(env, key)):
        sentences = tuple(stage)
        if sentences:  # the later checks could not run
            return sentences
    return (
        *_tasks(env, key),
        *frozen_reads(env.sample_task, key),
        *_behavior(_run(env, key), random_start, shared_dynamics),
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def _interface(env: Any) -> Iterator[str]:
    for name in ("sample_task", "reset", "step"):
        if not callable(getattr(env, name, None)):
            yield f"it has no function {name!r}"
    discrete = getattr(env, "discrete", False)
    for name in ("observation_size", "action_size", "horizon"):
        try:
            check_size(name, getattr(env, name, None), discrete and name == "action_size")
        except ValueError as error:
            yield str(error)
    if not isinstance(discrete, bool):
        yield f"discrete is {discrete!r}; it must be True or False"


def _traced(env: Any, key: jax.Array) -> Iterator[str]:
    """Faults visible to tracing alone: functions that cannot be compiled, wrong shapes, hidden inputs."""
    try:
        task = jax.eval_shape(env.sample_task, key)
    except Exception as error:
        yield f"sample_task cannot be traced by jax.jit: {_first_line(error)}"
        return
    if not jax.tree.leaves(task):
        yield "a task has no arrays, so that all tasks are the same"
        return
    states, arguments = {}, (key, task)
    for name in ("reset", "step"):
        changed_task: list[bool] = []
        function = _watch_task(getattr(env, name), changed_task, position=1 if name == "reset" else 0)
        try:
            states[name] = state = jax.eval_shape(function, *arguments)
            batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), arguments)
            constants = [_constants(jax.make_jaxpr(jax.vmap(getattr(env, name)))(*batch)) for _ in range(2)]
        except Exception as error:
            yield f"{name} cannot be traced by jax.jit and jax.vmap (a Python `if` on an array?): {_first_line(error)}"
            return
        if any(changed_task):
            yield f"{name} changes the task that it is given: the task must stay fixed for the whole trial"
        if not _same(*constants):
            yield f"{name} draws random numbers that its key does not know of: the same call gives another result"
        wrong = tuple(_fields(name, state, env.observation_size))
        yield from wrong
        if wrong:
            return
        arguments = (task, state, zero_action(env))
    yield from _same_tree(states["reset"], states["step"])


def _watch_task(function: Callable, changed_task: list[bool], position: int) -> Callable:
    """Wraps `function` to record, per call, whether it modified its argument at `position`."""

    def watched(*arguments):
        before = jax.tree.flatten(arguments[position])
        result = function(*arguments)
        after = jax.tree.flatten(arguments[position])
        same = before[1] == after[1] and all(a is b for a, b in zip(before[0], after[0], strict=True))
        changed_task.append(not same)
        return result

    return watched


def _constants(jaxpr: Any) -> list[np.ndarray]:
    """All constants of a traced program; numbers drawn by NumPy end up among them."""
    constants = [np.asarray(c) for c in jaxpr.consts if not jnp.issubdtype(jnp.result_type(c), jax.dtypes.prng_key)]

    def visit(inner):
        for equation in inner.eqns:
            constants.extend(np.asarray(v.val) for v in equation.invars if hasattr(v, "val"))
            for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                if hasattr(value, "jaxpr"):
                    consts = getattr(value, "consts", ())
                    constants.extend(np.asarray(c) for c in consts if np.dtype(getattr(c, "dtype", float)).kind != "V")
                    visit(value.jaxpr)
                elif hasattr(value, "eqns"):
                    visit(value)

    visit(jaxpr.jaxpr)
    return constants


def _same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(first, second, strict=True)
    )


def _fields(name: str, state: Any, observation_size: int) -> Iterator[str]:
    for field in FIELDS:
        if not hasattr(state, field):
            yield f"the state of {name} has no field {field!r}"
            continue
        value = getattr(state, field)
        if not jax.tree_util.all_leaves([value]):
            yield f"{field} of {name} is a {type(value).__name__}; it must be one array"
            continue
        shape, dtype = jnp.shape(value), jnp.result_type(value)
        expected = (observation_size,) if field == "observation" else ()
        if shape != expected:
            yield f"{field} of {name} has shape {shape}; it must be {expected}"
        kind, word = (jnp.bool_, "bool") if field in ("terminated", "truncated") else (jnp.floating, "float")
        weak_zero = name == "reset" and getattr(value, "weak_type", False)  # `reward=0` takes the type of step's reward
        if not jnp.issubdtype(dtype, kind) and not (weak_zero and field == "reward"):
            yield f"{field} of {name} has dtype {dtype}; it must be {word}"


def _same_tree(start: PyTree, after_step: PyTree) -> Iterator[str]:
    if jax.tree.structure(start) != jax.tree.structure(after_step):
        yield "reset and step return states of different structure"
        return
    for (path, first), second in zip(
        jax.tree_util.tree_leaves_with_path(start), jax.tree.leaves(after_step), strict=True
    ):
        if first.shape != second.shape:
            leaf = jax.tree_util.keystr(path)
            yield f"state{leaf} has shape {first.shape} at reset and {second.shape} after a step"


def _tasks(env: Any, key: jax.Array) -> Iterator[str]:
    draw = jax.jit(jax.vmap(env.sample_task))
    tasks = [_numbers(leaf).reshape(64, -1) for leaf in jax.tree.leaves(draw(jax.random.split(key, 64)))]
    if all(len(np.unique(leaf, axis=0)) == 1 for leaf in tasks):
        yield "sample_task gives the same task for every key"
    if not all(np.isfinite(leaf).all() for leaf in tasks if leaf.dtype.kind == "f"):
        yield "sample_task gives tasks that are NaN or infinite"


def _numbers(leaf: jax.Array) -> np.ndarray:
    is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


class _Runs(NamedTuple):
    """Groups of 16 lanes: tasks A and B with equal keys and actions; with other keys and actions; with extreme ones."""

    observation: np.ndarray
    """[group, lane, t, ...] from reset on"""
    reward: np.ndarray
    """[group, lane, t]; 0 at reset"""
    reached: np.ndarray
    """[group, lane, t] whether the episode was still running"""
    own_task: bool
    """whether a state has a field `task` that differs from the task passed in"""
    over: bool
    """whether an episode has ended at reset"""


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
    observations, rewards, reached = [np.asarray(state.observation)], [np.zeros(len(running))], [running | True]
    depends = False
    for t in range(min(env.horizon, MOST_STEPS)):
        state = step(tasks, state, actions(t))
        reached.append(running.copy())
        observations.append(np.where(running[:, None], np.asarray(state.observation), 0))
        rewards.append(np.where(running, np.asarray(state.reward), 0))
        own_task |= _own_task_differs(state, tasks)
        running &= ~np.asarray(state.terminated | state.truncated, bool)
        paid = rewards[-1].reshape(len(GROUPS), LANES)
        depends |= not np.array_equal(paid[::2], paid[1::2])
        if t + 1 >= LEAST_STEPS and depends:
            break

    def groups(record):
        return np.stack(record, 1).reshape(len(GROUPS), LANES, len(record), *record[0].shape[1:])

    return _Runs(groups(observations), groups(rewards), groups(reached), own_task, over)


def _own_task_differs(state: Any, tasks: PyTree) -> bool:
    state_task = getattr(state, "task", None)
    if state_task is None or jax.tree.structure(state_task) != jax.tree.structure(tasks):
        return False
    pairs = zip(jax.tree.leaves(state_task), jax.tree.leaves(tasks), strict=True)
    return not all(np.array_equal(_numbers(a), _numbers(b)) for a, b in pairs)


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
                component = "".join(f"[{i}]" for i in first[3:])
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
