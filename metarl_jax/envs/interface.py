"""The part of the environment contract that needs no run: sizes, and functions that trace to the right shapes."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import observations
from metarl_jax.actions import check_size, zero_action
from metarl_jax.envs.starts import promoted
from metarl_jax.soundness import check_task, measured
from metarl_jax.types import PyTree, Trajectory, is_key

FIELDS = ("observation", "reward", "terminated", "truncated")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def interface(env: Any) -> Iterator[str]:
    """Functions and sizes that an environment lacks."""
    for name in ("sample_task", "reset", "step"):
        if not callable(getattr(env, name, None)):
            yield f"it has no function {name!r}"
    discrete = getattr(env, "discrete", False)
    shape = getattr(env, "observation_shape", None)
    for name in ("observation_size", "action_size", "horizon"):
        try:
            if name == "observation_size" and shape is not None:
                observations.checked("of the environment", shape)
            else:
                check_size(name, getattr(env, name, None), discrete and name == "action_size")
        except ValueError as error:
            yield str(error)
    if not isinstance(discrete, bool):
        yield f"discrete is {discrete!r}; it must be True or False"


def traced(env: Any, key: jax.Array) -> Iterator[str]:
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
            once, again = _traced_twice(jax.vmap(getattr(env, name)), *batch)
        except Exception as error:
            yield f"{name} cannot be traced by jax.jit and jax.vmap (a Python `if` on an array?): {_first_line(error)}"
            return
        if any(changed_task):
            yield f"{name} changes the task that it is given: the task must stay fixed for the whole trial"
        if not _same(once, again):
            yield f"{name} draws random numbers that its key does not know of: the same call gives another result"
        wrong = tuple(_fields(name, state, observations.shapes_of(env)))
        yield from wrong
        if wrong:
            return
        arguments = (task, state, zero_action(env))
    yield from _same_tree(states["reset"], states["step"])


def optional(env: Any, key: jax.Array) -> Iterator[str]:
    """Faults of `sample_tasks` and `measure`, if the environment has them, visible to tracing alone."""
    task = jax.eval_shape(env.sample_task, key)
    calls = {
        "sample_tasks": lambda function: jax.eval_shape(lambda key: check_task(env, function(key, 4), 4), key),
        "measure": lambda function: jax.eval_shape(lambda data: measured(function, data), _trajectory(env, key, task)),
    }
    for name, call in calls.items():
        if (function := getattr(env, name, None)) is None:
            continue
        try:
            call(function)
        except Exception as error:
            yield f"{name} does not do for 4 tasks of 2 stages of 3 episodes: {_first_line(error)}"


def _trajectory(env: Any, key: jax.Array, task: PyTree) -> Trajectory:
    """Shapes and dtypes of D of 4 tasks, leaves [4, 2, 3, T, ...]."""
    lead = 4, 2, 3, env.horizon

    def spec(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype)

    first = jax.eval_shape(env.reset, key, task)
    later = jax.eval_shape(env.step, task, first, zero_action(env))
    observation = jax.tree.map(spec, jax.eval_shape(promoted, first.observation, later.observation))
    real, flag = (spec(jax.ShapeDtypeStruct((), jnp.zeros((), kind).dtype)) for kind in (float, bool))
    action = spec(jax.eval_shape(lambda: zero_action(env)))
    return Trajectory(observation, action, real, real, real, flag, flag, observation)


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


def _traced_twice(function: Callable, *arguments: Any) -> list[list[np.ndarray]]:
    """The constants of two traces of a function."""
    config: Any = jax.config
    here = config.jax_numpy_rank_promotion
    found = []
    # What is jitted inside would keep its first trace, were it not for another setting, which changes no number.
    for setting in (here, "allow" if here == "warn" else "warn"):
        with jax.numpy_rank_promotion(setting), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(constants(jax.make_jaxpr(function)(*arguments)))
    return found


def constants(jaxpr: Any) -> list[np.ndarray]:
    """All constants of a traced program; numbers drawn by NumPy end up among them."""
    found = [numbers(c) for c in jaxpr.consts]

    def visit(inner):
        for equation in inner.eqns:
            found.extend(numbers(v.val) for v in equation.invars if hasattr(v, "val"))
            for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
                if hasattr(value, "jaxpr"):
                    found.extend(numbers(c) for c in getattr(value, "consts", ()))
                    visit(value.jaxpr)
                elif hasattr(value, "eqns"):
                    visit(value)

    visit(jaxpr.jaxpr)
    return found


def numbers(leaf: Any) -> np.ndarray:
    """An array as NumPy's, a random key as its data."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(first, second, strict=True)
    )


def _fields(name: str, state: Any, shapes: PyTree) -> Iterator[str]:
    for field in FIELDS:
        if not hasattr(state, field):
            yield f"the state of {name} has no field {field!r}"
            continue
        value = getattr(state, field)
        if field == "observation":
            if wrong := observations.mismatch(shapes, value):
                hint = "; if that is meant, say it by observation_shape" if observations.is_vector(shapes) else ""
                yield f"observation of {name}{wrong}{hint}"
            continue
        if not jax.tree_util.all_leaves([value]):
            yield f"{field} of {name} is a {type(value).__name__}; it must be one array"
            continue
        shape, dtype = jnp.shape(value), jnp.result_type(value)
        if shape != ():
            yield f"{field} of {name} has shape {shape}; it must be ()"
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
    if wrong := observations.half_bytes(start.observation, after_step.observation):
        yield f"observation{wrong}"
