"""The observations of an environment: their shapes, and one of them as a flat vector.

An observation is an array or a tree of arrays, such as a dictionary. `TaskEnv` says its shapes as `observation_size`, n
for a vector [n], or as `observation_shape`, a tree whose leaves are shapes. Functions that take `shapes` accept both.
"""

import math
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.types import PyTree

NUMBERS = (jnp.bool_, jnp.integer, jnp.floating)
"""kinds of numbers that an observation may hold"""


class Leaf(NamedTuple):
    """One array of an observation."""

    name: str
    """its place in the tree, such as ``['picture']``; empty if the observation is one array"""
    shape: tuple[int, ...]
    dtype: Any
    """None: any kind of number"""


class _Total(int):
    """The size that follows from an `observation_shape`; a type of its own, to tell it from one that was given.

    `dataclasses.replace` passes all fields on, so it also passes a size that nobody gave.
    """


def size_and_shape(where: str, size: Any, shape: PyTree) -> int:
    """Checks the two fields of an environment, of which exactly one is given, and returns its `observation_size`.

    Args:
        where: the environment, for errors.
        size: `observation_size` as given; None, or what another environment derived from its shape.
        shape: `observation_shape` as given.

    Raises:
        ValueError: both or neither are given, or one is no size or no shape.
    """
    if shape is None:
        if size is None:
            raise ValueError(
                f"observation_size {where} is None; give it, the length of the vector, or observation_shape, such as "
                "(8, 8, 2) for a picture"
            )
        return checks.integer(f"observation_size {where}", size)
    if size is not None and not isinstance(size, _Total):
        raise ValueError(
            f"observation_size {where} is {size!r} and observation_shape is {shape!r}; give one of them and leave the "
            "other at None"
        )
    return _Total(total(checked(where, shape)))


def _is_shape(value: Any) -> bool:
    if isinstance(value, jax.ShapeDtypeStruct):
        return True
    return type(value) is tuple and all(isinstance(size, Integral) for size in value)


def checked(where: str, shape: PyTree) -> PyTree:
    """An `observation_shape`, unchanged.

    Raises:
        ValueError: it has no leaf, or a leaf is not the shape of an array of numbers.
    """
    leaves = jax.tree_util.tree_leaves_with_path(shape, is_leaf=_is_shape)
    if not leaves:
        raise ValueError(f"observation_shape {where} is {shape!r}; it must hold at least one shape")
    for path, leaf in leaves:
        name = f"observation_shape{jax.tree_util.keystr(path)} {where}"
        if not _is_shape(leaf):
            raise ValueError(
                f"{name} is {leaf!r}; it must be a shape, such as (8, 8, 2), or a jax.ShapeDtypeStruct, or a tree of "
                "them, such as {'picture': (8, 8, 2), 'velocity': (2,)}"
            )
        for size in getattr(leaf, "shape", leaf):
            checks.integer(f"an entry of {name}", size)
        if isinstance(leaf, jax.ShapeDtypeStruct) and not is_number(leaf.dtype):
            raise ValueError(f"{name} has dtype {leaf.dtype}; it must be bool, integer or float")
    return shape


def is_number(dtype: Any) -> bool:
    """Whether an observation may have this dtype: boolean, integer or real."""
    return any(jnp.issubdtype(dtype, kind) for kind in NUMBERS)


def without_dtypes(shape: PyTree) -> PyTree:
    """An `observation_shape` that fixes no dtype; None: None."""
    return jax.tree.map(lambda leaf: tuple(getattr(leaf, "shape", leaf)), shape, is_leaf=_is_shape)


def shapes_of(env: Any) -> PyTree:
    """The shapes of an environment, or of any object with its fields: `observation_shape`, else `observation_size`."""
    shape = getattr(env, "observation_shape", None)
    return env.observation_size if shape is None else shape


def is_vector(shapes: PyTree) -> bool:
    """Whether these are no shapes but the length of a vector."""
    return isinstance(shapes, Integral)


def leaves_of(shapes: PyTree) -> list[Leaf]:
    """The arrays of an observation, in JAX's order."""
    if is_vector(shapes):
        return [Leaf("", (int(shapes),), None)]
    return [
        Leaf(
            jax.tree_util.keystr(path),
            tuple(int(size) for size in getattr(leaf, "shape", leaf)),
            getattr(leaf, "dtype", None),
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes, is_leaf=_is_shape)
    ]


def total(shapes: PyTree) -> int:
    """Numbers in an observation of these shapes."""
    return sum(math.prod(leaf.shape) for leaf in leaves_of(shapes))


def _found(shapes: PyTree, observation: PyTree) -> list[Any] | None:
    """What stands in an observation where `shapes` has its leaves; None: it is another tree."""
    structure = jax.tree.structure(0 if is_vector(shapes) else shapes, is_leaf=_is_shape)
    try:
        found = structure.flatten_up_to(observation)
    except (ValueError, TypeError, KeyError):
        return None
    return found if all(jax.tree_util.all_leaves([leaf]) for leaf in found) else None


def arrays(shapes: PyTree, observation: PyTree) -> list[jax.Array]:
    """The arrays of an observation, or of a batch of them, [..., *shape], in the order of `leaves_of`.

    Where `shapes` is the length of a vector, one observation of another form but as many numbers is flattened.

    Raises:
        ValueError: the observation is another tree, or an array has another shape.
    """
    found = [jnp.asarray(array) for array in _found(shapes, observation) or ()]
    if found and all(
        array.ndim >= len(leaf.shape) and array.shape[array.ndim - len(leaf.shape) :] == leaf.shape
        for leaf, array in zip(leaves_of(shapes), found, strict=True)
    ):
        return found
    if is_vector(shapes) and sum(np.size(leaf) for leaf in jax.tree.leaves(observation)) == shapes:
        return [flat(observation)]
    raise ValueError(
        f"the observation is {described(observation)}, and this network was made for {_expected(shapes)}; hand in one "
        "like that, or say in TaskEnv, by observation_shape, what its observations are"
    )


def mismatch(shapes: PyTree, observation: PyTree) -> str | None:
    """What distinguishes one observation from an environment's shapes, "['eye'] has shape ..."; None: nothing."""
    found = _found(shapes, observation)
    if found is None:
        return f" is {described(observation)}; it must be {_expected(shapes)}"
    for leaf, array in zip(leaves_of(shapes), found, strict=True):
        if jnp.shape(array) != leaf.shape:
            return f"{leaf.name} has shape {jnp.shape(array)}; it must be {leaf.shape}"
        dtype = jnp.result_type(array)
        if not is_number(dtype):
            return f"{leaf.name} has dtype {dtype}; it must be bool, integer or float"
        if leaf.dtype is not None and dtype != jax.dtypes.canonicalize_dtype(leaf.dtype):
            return f"{leaf.name} has dtype {dtype}; observation_shape says {leaf.dtype}"
    return None


def is_byte_picture(array: Any) -> bool:
    """Whether one array of an observation is a picture of bytes, which a network reads divided by 255."""
    return len(jnp.shape(array)) == 3 and jnp.result_type(array) == jnp.uint8


def half_bytes(first: PyTree, later: PyTree) -> str | None:
    """What of two observations of an environment is one picture, of bytes in one of them only; None: nothing.

    Promotion would make other numbers up to 255 of it, which a network reads as they are.
    """
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(later), strict=True):
        if is_byte_picture(one) != is_byte_picture(other):
            return (
                f"{jax.tree_util.keystr(path)} is a picture of {jnp.result_type(one)} at reset and of "
                f"{jnp.result_type(other)} after a step; return uint8 from both, or from neither"
            )
    return None


def _expected(shapes: PyTree) -> str:
    return described((int(shapes),) if is_vector(shapes) else shapes)


def described(tree: PyTree) -> str:
    """An observation, or a tree of shapes, as shapes for a message, such as ``{'eye': (8, 8, 1)}``."""
    shapes = jax.tree.map(lambda leaf: leaf if type(leaf) is tuple else np.shape(leaf), tree, is_leaf=_is_shape)
    return f"one array of shape {shapes}" if _is_shape(shapes) else str(shapes)


def flat(observation: PyTree, lead: int = 0, dtype: Any = float) -> jax.Array:
    """[..., n] all numbers of an observation, as real numbers; the leaves of a tree in JAX's order.

    Args:
        observation: leaves with `lead` batch axes.
        lead: number of batch axes.
        dtype: the dtype of the result.
    """
    parts = [
        jnp.reshape(leaf, (*jnp.shape(leaf)[:lead], -1)).astype(dtype)
        for leaf in map(jnp.asarray, jax.tree.leaves(observation))
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
