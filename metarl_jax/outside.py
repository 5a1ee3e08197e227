"""Checks of what a `metarl_jax.Learner` is given from outside of JAX, such as a robot's readings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.base import MetaAlgorithm
from metarl_jax.types import PyTree


def as_spec(name: str, what: str, value: PyTree, spec: PyTree, most: float) -> PyTree:
    """The value as arrays with the shapes and dtypes of `spec`.

    Args:
        name: the environment, for errors.
        what: the value, for errors.
        value: an array, or a tree of arrays.
        spec: shapes and dtypes.
        most: largest size of a real number.

    Raises:
        ValueError: it is another tree, or has another shape, or numbers that are not allowed.
    """
    tree = jax.tree.structure(spec)
    if not isinstance(spec, jax.ShapeDtypeStruct):
        try:
            leaves = tree.flatten_up_to(value)
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{what} is {value!r}; those of {name!r} are trees {tree}") from None
        pairs = zip(leaves, jax.tree_util.tree_leaves_with_path(spec), strict=True)
        named = [(f"{what}{jax.tree_util.keystr(path)}", leaf, shape) for leaf, (path, shape) in pairs]
        return tree.unflatten([as_spec(name, *leaf, most) for leaf in named])
    array = np.asarray(value)
    if array.shape != spec.shape or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{what} has shape {list(array.shape)} and dtype {array.dtype}; those of {name!r} have shape "
            f"{list(spec.shape)} and dtype {spec.dtype}"
        )
    with np.errstate(all="ignore"):
        cast = array.astype(spec.dtype)
    exact = np.issubdtype(spec.dtype, np.inexact)
    if not (np.abs(cast) <= most if exact else cast == array).all():
        requirement = f"finite and at most {most:g} in size" if exact else f"of dtype {spec.dtype}"
        raise ValueError(f"{what} is {array}; it must be {requirement}")
    return cast


def number(what: str, value: Any, most: float) -> float:
    """One number of at most `most` in size."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or not abs(float(array.reshape(()))) <= most:
        raise ValueError(f"{what} is {value!r}; it must be one number of at most {most:g} in size")
    return float(array.reshape(()))


def flag(what: str, value: Any) -> bool:
    """True or False, NumPy's and JAX's included."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind != "b":
        raise ValueError(f"{what} is {value!r}; it must be True or False")
    return bool(array.reshape(()))


def check_theta(algorithm: MetaAlgorithm, theta: PyTree) -> None:
    """Raises ValueError if the parameters are no θ of the algorithm."""
    theta_spec = jax.eval_shape(algorithm.init, jax.random.key(0)).params

    def shapes(tree):
        return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}

    expected, actual = shapes(theta_spec), shapes(theta)
    if expected != actual:
        differing = sorted(set(expected.items()) ^ set(actual.items()))[0][0]
        raise ValueError(
            f"params is no θ of this algorithm: θ{differing} has shape {actual.get(differing, 'none')}, and its own "
            f"{expected.get(differing, 'none')}; take one seed's θ, of an algorithm made with the same options"
        )
