"""What the suites have in common: optional libraries, users' functions, steps that change the dtypes of a reset."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.state import State, like
from metarl_jax.precision import full_precision
from metarl_jax.types import Key, PyTree, strongly_typed


def load(library: str, extra: str) -> Any:
    """An optional library, imported when it is needed.

    Raises:
        ImportError: it cannot be imported; the line names the extra that brings it.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        fix = f'pip install "metarl_jax[{extra}]"'
        raise ImportError(f"{library} cannot be imported ({error}): {fix}") from error


def function(name: str, value: Any, *arguments: str) -> Any:
    """`value` if it can be called with these positional arguments, else a ValueError."""
    call = f"{name}({', '.join(arguments)})"
    if not callable(value):
        raise ValueError(f"{name} is {value!r}; it must be a function, called as {call}")
    try:
        signature = inspect.signature(value)
    except ValueError:  # some built-in functions have none
        return value
    try:
        signature.bind(*arguments)
    except TypeError:
        raise ValueError(f"{name} has the arguments {signature}; it is called as {call}") from None
    return value


def sampler(name: str, sample: Callable[[Key], PyTree]) -> Callable[[Key], PyTree]:
    """`sample` with strongly typed arrays for leaves; `name` is what errors call it."""

    def typed(key):
        task = sample(key)
        try:
            return strongly_typed(task)
        except TypeError:
            raise ValueError(f"{name} returned {task!r}; every leaf of a task must be an array or a number") from None

    return typed


def scalar(name: str, value: Any) -> Any:
    """`value` if it is one number, else a ValueError."""
    if value is None or jnp.shape(value) != ():
        found = "None" if value is None else f"an array of shape {jnp.shape(value)}"
        raise ValueError(f"{name} is {found}; it must be a scalar")
    return value


def flat(name: str, observation: PyTree) -> jax.Array:
    """All numbers of an observation in one float vector; a tree's leaves one after the other, in JAX's order."""
    leaves = jax.tree.leaves(observation)
    if not leaves:
        raise ValueError(f"{name}: the observation is {observation!r}; it must hold at least one array")
    return jnp.concatenate([jnp.ravel(leaf).astype(float) for leaf in leaves])


def moment(name: str, observation: PyTree, reward: Any, terminated: Any, truncated: Any, internal: PyTree) -> State:
    """One `State`, in float and bool; `internal` as it is."""
    return State(
        observation=flat(name, observation),
        reward=jnp.asarray(scalar(f"{name}: reward", reward), float),
        terminated=jnp.asarray(scalar(f"{name}: terminated", terminated), bool),
        truncated=jnp.asarray(scalar(f"{name}: truncated", truncated), bool),
        internal=internal,
    )


def assemble(
    *,
    name: str,
    sample_task: Callable[[Key], PyTree],
    reset: Callable[[Key, PyTree], State],
    step: Callable[[PyTree, State, jax.Array], State],
    action_size: int,
    discrete: bool,
    horizon: int,
) -> TaskEnv:
    """A `TaskEnv` whose states have one type, whatever mixture of int, float and weak types a suite returns.

    Nothing runs here: shapes and types are found by abstract evaluation, which also shows what is wrong with a user's
    functions. Both functions are jitted, so stepping by hand compiles once; inside a larger program they are inlined.

    Args:
        name: of the environment.
        sample_task: ``key → task``.
        reset: ``(key, task) → State``.
        step: ``(task, state, action) → State``.
        action_size: components of an action, or discrete actions.
        discrete: which of the two.
        horizon: steps per episode.

    Raises:
        ValueError: `step` returns another tree, or other shapes, than `reset`.
    """
    key = jax.random.key(0)
    task = jax.eval_shape(sample_task, key)
    action = jax.ShapeDtypeStruct(() if discrete else (action_size,), jnp.zeros((), int if discrete else float).dtype)
    step = jax.jit(step)
    types = _joint(name, lambda state: jax.eval_shape(step, task, state, action), jax.eval_shape(reset, key, task))
    return TaskEnv(
        sample_task=sample_task,
        reset=jax.jit(full_precision(lambda key, task: like(types, reset(key, task)))),
        step=jax.jit(full_precision(lambda task, state, action: like(types, step(task, state, action)))),
        observation_size=types.observation.size,
        action_size=checks.integer(f"action_size of {name!r}", action_size),
        horizon=horizon,
        discrete=discrete,
        name=name,
    )


def _joint(name: str, following: Callable[[PyTree], PyTree], start: PyTree) -> PyTree:
    """The least types that hold both `start` and what follows it, as a tree of shapes and dtypes.

    Casting a step's result to the types of the reset would cut numbers where a reset says 0 and a step 0.5.
    """

    def promoted(path, old, new):
        if old.shape != new.shape:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(f"{name}: state{leaf} has shape {old.shape} at reset and {new.shape} after a step")
        is_key = jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
        return jax.ShapeDtypeStruct(old.shape, old.dtype if is_key else jnp.promote_types(old.dtype, new.dtype))

    types = jax.tree_util.tree_map_with_path(promoted, start, start)
    while True:
        after = following(types)
        if jax.tree.structure(types) != jax.tree.structure(after):
            raise ValueError(f"{name}: reset and step return states of different structure")
        wider = jax.tree_util.tree_map_with_path(promoted, types, after)
        if wider == types:
            return types
        types = wider
