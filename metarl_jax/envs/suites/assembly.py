"""Code shared by the suites: optional imports, and consistent dtypes of states."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks, observations
from metarl_jax.base import TaskEnv
from metarl_jax.envs.state import State, like
from metarl_jax.precision import full_precision
from metarl_jax.types import Key, PyTree, is_key, strongly_typed


def load(library: str, extra: str) -> Any:
    """Imports an optional library.

    Raises:
        ImportError: it cannot be imported; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        fix = f'pip install "metarl_jax[{extra}]"'
        raise ImportError(f"{library} cannot be imported ({error}): {fix}") from error


def sampler(name: str, sample: Callable[[Key], PyTree]) -> Callable[[Key], PyTree]:
    """`sample` with strongly typed arrays as leaves; error messages call it `name`."""

    def typed(key):
        task = sample(key)
        try:
            return strongly_typed(task)
        except TypeError:
            raise ValueError(f"{name} returned {task!r}; every leaf of a task must be an array or a number") from None

    return typed


def scalar(name: str, value: Any) -> Any:
    """Returns `value` if it is a scalar, else raises a ValueError."""
    if value is None or jnp.shape(value) != ():
        description = "None" if value is None else f"an array of shape {jnp.shape(value)}"
        raise ValueError(f"{name} is {description}; it must be a scalar")
    return value


def flat(name: str, observation: PyTree) -> jax.Array:
    """An observation flattened into one float vector; the leaves of a tree are in JAX's order."""
    if not jax.tree.leaves(observation):
        raise ValueError(f"{name}: the observation is {observation!r}; it must hold at least one array")
    return observations.flat(observation)


def moment(
    name: str,
    observation: PyTree,
    reward: Any,
    terminated: Any,
    truncated: Any,
    internal: PyTree,
    flatten: bool = True,
) -> State:
    """A `State` with float and bool fields; `internal` is unchanged, and the observation where it is not flattened."""
    return State(
        observation=flat(name, observation) if flatten else jax.tree.map(jnp.asarray, observation),
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
    """A `TaskEnv` whose states always have the same dtypes, even if the suite mixes int, float and weak types.

    Shapes and dtypes come from abstract evaluation, which also detects errors in the user's functions. `reset` and
    `step` are jitted, so outside a jitted program they compile only once; inside a larger program they are inlined.

    Args:
        name: name of the environment.
        sample_task: ``key → task``.
        reset: ``(key, task) → State``.
        step: ``(task, state, action) → State``.
        action_size: number of action components, or of discrete actions.
        discrete: whether actions are discrete.
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
        **_size(types.observation),
        action_size=checks.integer(f"action_size of {name!r}", action_size),
        horizon=horizon,
        discrete=discrete,
        name=name,
    )


def _size(observation: PyTree) -> dict[str, Any]:
    """The field of `TaskEnv` that says what an observation of these types is."""
    if isinstance(observation, jax.ShapeDtypeStruct) and len(observation.shape) == 1:
        return {"observation_size": observation.shape[0]}
    return {"observation_shape": jax.tree.map(lambda leaf: leaf.shape, observation)}


def _joint(name: str, next_state: Callable[[PyTree], PyTree], start: PyTree) -> PyTree:
    """The smallest common dtypes of `start` and all later states, as a tree of shapes and dtypes.

    Casting a step's result to the dtypes of the reset would truncate values, for example if a reset returns 0 and a
    step 0.5.
    """

    def promoted(path, old, new):
        if old.shape != new.shape:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(f"{name}: state{leaf} has shape {old.shape} at reset and {new.shape} after a step")
        return jax.ShapeDtypeStruct(old.shape, old.dtype if is_key(old) else jnp.promote_types(old.dtype, new.dtype))

    types = jax.tree_util.tree_map_with_path(promoted, start, start)
    while True:
        after = next_state(types)
        if jax.tree.structure(types) != jax.tree.structure(after):
            raise ValueError(f"{name}: reset and step return states of different structure")
        wider = jax.tree_util.tree_map_with_path(promoted, types, after)
        if wider == types:
            return types
        types = wider
