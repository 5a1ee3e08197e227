"""What a rollout takes from a caller, an environment and a policy: refused where it cannot work, sane or diverged."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.base import TaskEnv
from metarl_jax.types import PyTree


class _Shape(NamedTuple):
    """A leaf as an error message shows it: type and shape of an array, such as ``float32[2]``, anything else itself."""

    leaf: Any

    def __repr__(self) -> str:
        if not hasattr(self.leaf, "dtype"):
            return repr(self.leaf)
        return f"{self.leaf.dtype}{list(jnp.shape(self.leaf))}".replace(" ", "")


_KINDS = (jnp.bool_, jnp.integer, jnp.floating)
"""of numbers, each of which holds those before it"""


def _kind(dtype: Any) -> Any:
    return next((place for place, kind in enumerate(_KINDS) if jnp.issubdtype(dtype, kind)), dtype)


def _as_leaf(value: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
    """The array that a leaf of a task is; ValueError or TypeError where it is no such array."""
    if jnp.issubdtype(like.dtype, jax.dtypes.extended):
        fits = getattr(value, "dtype", None) == like.dtype
    else:
        value = jnp.asarray(value)
        given, wanted = _kind(value.dtype), _kind(like.dtype)
        fits = given == wanted or (isinstance(given, int) and isinstance(wanted, int) and given < wanted)
    if not fits or jnp.shape(value) != like.shape:
        raise ValueError
    return value if value.dtype == like.dtype else value.astype(like.dtype)


def check_task(env: TaskEnv, task: PyTree) -> PyTree:
    """The task as arrays of the types that `sample_task` gives; it takes a trace of `sample_task` and no run.

    Numbers of Python, NumPy arrays and lists do as well, and integers where the family has floats. What has another
    shape would broadcast, and give the returns of no task.

    Raises:
        ValueError: structure, a shape or the kind of a number is not that of the family's tasks.
    """
    expected = jax.eval_shape(env.sample_task, jax.random.key(0))
    leaves, structure = jax.tree.flatten(expected)
    try:
        given = structure.flatten_up_to(task)
        return structure.unflatten([_as_leaf(*pair) for pair in zip(given, leaves, strict=True)])
    except (ValueError, TypeError, OverflowError) as error:
        given, wanted = (jax.tree.map(_Shape, tree) for tree in (task, expected))
        raise ValueError(
            f"task is {given}, and a task of {env.name!r} is like {wanted}; take one from its sample_task, or write "
            "one down like that; to adapt to several, jax.vmap over them"
        ) from error


def check_state(env: TaskEnv, function: str, state: Any) -> None:
    """Tells a user what is wrong with an environment's state, before a scan or a network does in its own words.

    Raises:
        ValueError: a field is missing, is no array, or has the wrong shape.
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
        if field == "observation":
            size = sum(math.prod(jnp.shape(leaf)) for leaf in leaves)
            if size != env.observation_size:
                raise ValueError(
                    f"{where}: observation of {function} has {size} components and observation_size is "
                    f"{env.observation_size}; set observation_size={size}, or return as many"
                )
        elif len(leaves) > 1 or jnp.shape(leaves[0]) != ():
            shape = jnp.shape(leaves[0]) if len(leaves) == 1 else f"of a tree with {len(leaves)} arrays"
            raise ValueError(f"{where}: {field} of {function} has shape {shape}; it must be a scalar")


def check_same(env: TaskEnv, start: PyTree, following: PyTree) -> None:
    """The same for the two states together.

    Raises:
        ValueError: `reset` and `step` return different trees.
    """
    where = f"environment {env.name!r}"
    if jax.tree.structure(start) != jax.tree.structure(following):
        raise ValueError(f"{where}: reset and step return states of different structure; they must be the same struct")
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(state)] for state in (start, following)]
    for (path, _), first, second in zip(jax.tree_util.tree_leaves_with_path(start), *shapes, strict=True):
        if first != second:
            leaf = jax.tree_util.keystr(path)
            raise ValueError(
                f"{where}: state{leaf} has shape {first} at reset and {second} after a step; they must be the same"
            )


def check_action(env: TaskEnv, distribution: Any, action: Any, log_prob: Any) -> None:
    """Tells a user what is wrong with a policy's draw; wrong shapes would broadcast and train on nonsense.

    Raises:
        ValueError: a method is missing, or what it returns has the wrong shape or type.
    """
    shape, dtype = jnp.shape(action), jnp.result_type(action)
    where = f"the policy's {type(distribution).__name__} for the environment {env.name!r}"
    if env.discrete and (shape != () or not jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{where} samples {dtype}{list(shape)}; actions are discrete, so it must be one integer")
    if not env.discrete and (shape != (env.action_size,) or not jnp.issubdtype(dtype, jnp.floating)):
        raise ValueError(
            f"{where} samples {dtype}{list(shape)}; action_size is {env.action_size}, so it must be "
            f"float[{env.action_size}]"
        )
    if jnp.shape(log_prob) != ():
        raise ValueError(
            f"{where} has log_prob of shape {jnp.shape(log_prob)}; it must be a scalar, the sum over action components"
        )


MOST_OBSERVATION, MOST_REWARD = 1e8, 1e14
"""Magnitudes beyond which a simulation counts as diverged. On its way to infinity it passes numbers that are finite but
whose powers, in a baseline's squared features or a variance of returns, are not: float32 ends at 3e38."""


def within(tree: PyTree, most: float) -> jax.Array:
    """Whether no number is NaN or beyond ±most; with inf for `most`, whether all are finite."""
    return jnp.array([(jnp.isfinite(leaf) & (jnp.abs(leaf) <= most)).all() for leaf in jax.tree.leaves(tree)]).all()


def sane(state: Any) -> jax.Array:
    """[] bool: the state's observation and reward are those of a simulation that has not diverged."""
    return within(state.observation, MOST_OBSERVATION) & within(state.reward, MOST_REWARD)


LIMITS = {"observation": MOST_OBSERVATION, "reward": MOST_REWARD}
"""of the fields of a state, the largest magnitude of a simulation that has not diverged"""


class Witness:
    """Of what programs traced within `watched` met, the first number for which an episode is void."""

    def __init__(self):
        self.seen: str | None = None

    def look(self, when: str, names: list[tuple[str, tuple[int, ...]]], sound: Any, found: Any) -> np.ndarray:
        """Takes [...] episodes: which are sound, and of every leaf whether, where and with what it is not."""
        sound = np.asarray(sound)
        if self.seen is None and not sound.all():
            first = tuple(np.argwhere(~sound)[0])
            for (name, shape), leaf in zip(names, found, strict=True):
                wrong, place, value = (np.asarray(numbers)[first] for numbers in leaf)
                if wrong:
                    component = "".join(f"[{i}]" for i in np.unravel_index(int(place), shape))
                    limit = LIMITS[name.partition("[")[0].partition(".")[0]]
                    self.seen = f"{name}{component} is {value:.6g} {when}, and an episode takes up to ±{limit:g}"
                    break
        return sound


_WITNESS: contextvars.ContextVar[Witness | None] = contextvars.ContextVar("witness", default=None)


@contextlib.contextmanager
def watched() -> Iterator[Witness]:
    """Programs that are traced within it tell a witness what diverges, and take longer; no other pays for it."""
    witness = Witness()
    token = _WITNESS.set(witness)
    try:
        yield witness
    finally:
        _WITNESS.reset(token)


def witnessed(sound: jax.Array, when: str, state: Any) -> jax.Array:
    """`sound` [] bool as it is; within `watched` a witness looks at the state where it is False."""
    witness = _WITNESS.get()
    if witness is None:
        return sound
    names, found = [], []
    for field, most in LIMITS.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, field)):
            numbers = jnp.ravel(leaf).astype(float)
            if numbers.size:
                wrong = ~(jnp.abs(numbers) <= most)
                names.append((field + jax.tree_util.keystr(path), jnp.shape(leaf)))
                found.append((wrong.any(), wrong.argmax(), numbers[wrong.argmax()]))
    shape = jax.ShapeDtypeStruct((), bool)
    look = functools.partial(witness.look, when, names)
    return jax.pure_callback(look, shape, sound, found, vmap_method="broadcast_all")
