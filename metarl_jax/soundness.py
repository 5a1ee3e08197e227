"""Checks on tasks, environment states and policy outputs: shape errors raise, diverged simulations are flagged."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import actions
from metarl_jax.base import TaskEnv
from metarl_jax.observations import half_bytes, mismatch
from metarl_jax.types import PyTree, Trajectory


class _Shape(NamedTuple):
    """A leaf as shown in error messages: dtype and shape of an array, such as ``float32[2]``, else the value itself."""

    leaf: Any

    def __repr__(self) -> str:
        if not hasattr(self.leaf, "dtype"):
            return repr(self.leaf)
        return f"{self.leaf.dtype}{list(jnp.shape(self.leaf))}".replace(" ", "")


def all_finite(tree: PyTree) -> jax.Array:
    """[] bool: no leaf holds a NaN or an infinity."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves] or [True]).all()


_KINDS = (jnp.bool_, jnp.integer, jnp.floating)
"""kinds of numbers; each can represent the kinds before it"""


def _kind(dtype: Any) -> Any:
    return next((place for place, kind in enumerate(_KINDS) if jnp.issubdtype(dtype, kind)), dtype)


def _as_leaf(value: Any, spec: jax.ShapeDtypeStruct) -> jax.Array:
    """The leaf of a task as an array like `spec`; raises ValueError or TypeError if it does not match."""
    if jnp.issubdtype(spec.dtype, jax.dtypes.extended):
        fits = getattr(value, "dtype", None) == spec.dtype
    else:
        value = jnp.asarray(value)
        kind, target = _kind(value.dtype), _kind(spec.dtype)
        fits = kind == target or (isinstance(kind, int) and isinstance(target, int) and kind < target)
    if not fits or jnp.shape(value) != spec.shape:
        raise ValueError
    return value if value.dtype == spec.dtype else value.astype(spec.dtype)


def check_task(env: TaskEnv, task: PyTree, count: int | None = None) -> PyTree:
    """The task as arrays with the dtypes that `sample_task` returns; `sample_task` is traced, not run.

    With `count` it is so many tasks, leaves [count, ...].

    Python numbers, lists and NumPy arrays are accepted, and integers where the family has floats. Another shape would
    broadcast silently and give returns that belong to no task, so it is rejected.

    Raises:
        ValueError: the structure, a shape or the kind of a number differs from the family's tasks.
    """
    expected = jax.eval_shape(env.sample_task, jax.random.key(0))
    if count is not None:
        expected = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), expected)
    leaves, structure = jax.tree.flatten(expected)
    try:
        actual = structure.flatten_up_to(task)
        return structure.unflatten([_as_leaf(*pair) for pair in zip(actual, leaves, strict=True)])
    except (ValueError, TypeError, OverflowError) as error:
        actual, wanted = (jax.tree.map(_Shape, tree) for tree in (task, expected))
        if count is not None:
            raise ValueError(
                f"the {count} tasks of a meta-iteration are {actual}, and those of {env.name!r} are like {wanted}"
            ) from error
        raise ValueError(
            f"task is {actual}, and a task of {env.name!r} is like {wanted}; take one from its sample_task, or write "
            "one down like that; to adapt to several, jax.vmap over them"
        ) from error


PRIVATE = ("normalization/moments", "curriculum/returns")
"""Metrics by which data leave an algorithm's `update` for what is around it."""


def measured(measure: Callable[[Trajectory], Any], trajectory: Trajectory) -> dict[str, Any]:
    """What a user's `TaskEnv.measure` gives, as arrays by name.

    Raises:
        ValueError: it is no dictionary of numbers by names.
    """
    own = measure(trajectory)
    if not isinstance(own, Mapping):
        raise ValueError(f"measure of the environment gives {own!r}; it must give a dictionary of metrics by name")
    metrics = {}
    for name, value in own.items():
        if name in PRIVATE:
            metrics[name] = value
            continue
        if not isinstance(name, str) or not name or set(name) & set(",\n\r"):
            raise ValueError(
                f"measure of the environment gives {name!r}; a metric's name must be a text without commas"
            )
        try:
            metrics[name] = jnp.asarray(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"measure of the environment gives {name}={value!r}; it must be numbers") from error
        if not any(jnp.issubdtype(metrics[name].dtype, kind) for kind in _KINDS):
            raise ValueError(f"measure of the environment gives {name} of {metrics[name].dtype}; it must be numbers")
    return metrics


def check_state(env: TaskEnv, function: str, state: Any) -> None:
    """Checks an environment's state early, for a clearer message than a scan or a network would give.

    Raises:
        ValueError: a field is missing, is not an array, or has the wrong shape.
    """
    where = f"environment {env.name!r}"
    for field in ("observation", "reward", "terminated", "truncated"):
        if not hasattr(state, field):
            raise ValueError(
                f"{where}: the state of {function} has no field {field!r}; it must have observation, reward, "
                "terminated and truncated, as metarl_jax.envs.State does"
            )
        leaves = jax.tree.leaves(getattr(state, field))
        if not leaves or not all(hasattr(leaf, "dtype") or isinstance(leaf, bool | int | float) for leaf in leaves):
            raise ValueError(f"{where}: {field} of {function} is {getattr(state, field)!r}; it must be an array")
        if field == "observation" and env.observation_shape is not None:
            wrong = mismatch(env.observation_shape, state.observation)
            if wrong is not None:
                raise ValueError(f"{where}: observation of {function}{wrong}")
        elif field == "observation":
            size = sum(math.prod(jnp.shape(leaf)) for leaf in leaves)
            if size != env.observation_size:
                raise ValueError(
                    f"{where}: observation of {function} has {size} components and observation_size is "
                    f"{env.observation_size}; set observation_size={size}, or return as many"
                )
        elif len(leaves) > 1 or jnp.shape(leaves[0]) != ():
            shape = jnp.shape(leaves[0]) if len(leaves) == 1 else f"of a tree with {len(leaves)} arrays"
            raise ValueError(f"{where}: {field} of {function} has shape {shape}; it must be a scalar")


def check_same(env: TaskEnv, start: PyTree, next_state: PyTree) -> None:
    """Checks that the states of `reset` and `step` match.

    Raises:
        ValueError: `reset` and `step` return different trees, or a picture is of bytes in one of them only.
    """
    where = f"environment {env.name!r}"
    if jax.tree.structure(start) != jax.tree.structure(next_state):
        raise ValueError(f"{where}: reset and step return states of different structure; they must be the same struct")
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(state)] for state in (start, next_state)]
    for (path, _), first, second in zip(jax.tree_util.tree_leaves_with_path(start), *shapes, strict=True):
        if first != second:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(
                f"{where}: state{leaf} has shape {first} at reset and {second} after a step; they must be the same"
            )
    if wrong := half_bytes(start.observation, next_state.observation):
        raise ValueError(f"{where}: observation{wrong}")


def check_action(env: TaskEnv, distribution: Any, action: Any, log_prob: Any) -> None:
    """Checks a policy's action and log-probability; wrong shapes would broadcast silently.

    Raises:
        ValueError: the action or the log-probability has the wrong shape or dtype.
    """
    shape, dtype = jnp.shape(action), jnp.result_type(action)
    where = f"the policy's {type(distribution).__name__} for the environment {env.name!r}"
    wanted = actions.shape(env)
    if env.discrete and (shape != wanted or not jnp.issubdtype(dtype, jnp.integer)):
        what = "one integer" if wanted == () else f"int{list(wanted)}, one entry for each of {env.action_size}"
        raise ValueError(f"{where} samples {dtype}{list(shape)}; actions are discrete, so it must be {what}")
    if not env.discrete and (shape != wanted or not jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(
            f"{where} samples {dtype}{list(shape)}; action_size is {env.action_size}, so it must be "
            f"float[{env.action_size}]"
        )
    if jnp.shape(log_prob) != ():
        raise ValueError(
            f"{where} has log_prob of shape {jnp.shape(log_prob)}; it must be a scalar, the sum over action components"
        )


MOST_OBSERVATION, MOST_REWARD = 1e8, 1e14
"""Magnitudes beyond which a simulation counts as diverged. They are far below the float32 maximum of 3e38, because
values close to it overflow when squared, as in a baseline's features or a variance of returns."""


def within(tree: PyTree, most: float) -> jax.Array:
    """[] bool: no number is NaN or beyond ±most; with `most` = inf, all numbers are finite."""
    return jnp.array([(jnp.isfinite(leaf) & (jnp.abs(leaf) <= most)).all() for leaf in jax.tree.leaves(tree)]).all()


def sane(state: Any) -> jax.Array:
    """[] bool: the simulation has not diverged: the state's observation and reward are within their limits."""
    return within(state.observation, MOST_OBSERVATION) & within(state.reward, MOST_REWARD)


LIMITS = {"observation": MOST_OBSERVATION, "reward": MOST_REWARD}
"""the largest magnitude allowed in each field of a state; beyond it the simulation has diverged"""


class Witness:
    """Records the first out-of-bounds number that made an episode void, in programs traced inside `watched`."""

    def __init__(self):
        self.seen: str | None = None

    def look(self, when: str, names: list[tuple[str, tuple[int, ...]]], sound: Any, reports: Any) -> np.ndarray:
        """Callback for [...] episodes: `sound`, and per leaf (out of bounds?, flat index, value)."""
        sound = np.asarray(sound)
        if self.seen is None and not sound.all():
            first = tuple(np.argwhere(~sound)[0])
            for (name, shape), leaf in zip(names, reports, strict=True):
                is_out, place, value = (np.asarray(numbers)[first] for numbers in leaf)
                if is_out:
                    component = "".join(f"[{i}]" for i in np.unravel_index(int(place), shape))
                    limit = LIMITS[name.partition("[")[0].partition(".")[0]]
                    self.seen = f"{name}{component} is {value:.6g} {when}, and an episode takes up to ±{limit:g}"
                    break
        return sound


_WITNESS: contextvars.ContextVar[Witness | None] = contextvars.ContextVar("witness", default=None)


@contextlib.contextmanager
def watched() -> Iterator[Witness]:
    """Programs traced inside this context report diverging numbers to a witness; other programs have no overhead."""
    witness = Witness()
    token = _WITNESS.set(witness)
    try:
        yield witness
    finally:
        _WITNESS.reset(token)


def witnessed(sound: jax.Array, when: str, state: Any) -> jax.Array:
    """Returns `sound` ([] bool) unchanged; inside `watched`, reports the state to the witness where it is False."""
    witness = _WITNESS.get()
    if witness is None:
        return sound
    names, reports = [], []
    for field, most in LIMITS.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, field)):
            numbers = jnp.ravel(leaf).astype(float)
            if numbers.size:
                out_of_bounds = ~(jnp.abs(numbers) <= most)
                names.append((field + jax.tree_util.keystr(path), jnp.shape(leaf)))
                reports.append((out_of_bounds.any(), out_of_bounds.argmax(), numbers[out_of_bounds.argmax()]))
    shape = jax.ShapeDtypeStruct((), bool)
    look = functools.partial(witness.look, when, names)
    return jax.pure_callback(look, shape, sound, reports, vmap_method="broadcast_all")
