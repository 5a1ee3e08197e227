"""One batch axis for what is run in many copies: tasks × episodes of physics as one long row.

A `vmap` over tasks of a `vmap` over episodes hands the compiler arrays [B, N, ...] with two batch axes, for which it
transposes around products of matrices. On a GPU that is one kernel launch in nine of a step of Brax's physics, whose
time there is the number of its launches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from metarl_jax.types import PyTree

_config: Any = jax.config  # whose types do not list its options


def one_axis(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The function, for which two vmaps or more are one: it sees [B·N, ...] where they map [B, N, ...].

    What is returned is the same to rounding. An argument that the inner vmap does not map, such as a task that N
    episodes share, is repeated N times. The function is traced once, and may close over traced values. Under a mesh of
    devices only two vmaps are merged, the tasks' and the episodes': seeds are spread over devices along an axis of
    their own. Where JIT is disabled nothing is merged, so that a debugger sees the function's own operations.

    Args:
        function: of arrays and typed keys, its results likewise. No gradient passes it.
    """

    def merged(*arguments):
        if _config.jax_disable_jit:
            return function(*arguments)
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        is_traced = [isinstance(const, Tracer) for const in closed.consts]

        # What the function closes over is an argument too where it is traced, since a vmap may map it; numbers are not
        # repeated.
        def pure(traced, *arguments):
            traced = iter(traced)
            consts = [next(traced) if yes else const for yes, const in zip(is_traced, closed.consts, strict=True)]
            results = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*jax.tree.leaves(arguments))
            return jax.tree.unflatten(jax.tree.structure(shapes), results)

        @custom_vmap
        def single(*arguments):
            return pure(*arguments)

        @single.def_vmap
        def _(size, mapped, *arguments):
            return _mapped(_row(pure)(*_repeated(size, mapped, arguments)))

        traced = [const for yes, const in zip(is_traced, closed.consts, strict=True) if yes]
        # Cut here, since reverse mode knows no rule for a custom vmap.
        return single(*jax.lax.stop_gradient((traced, *arguments)))

    return merged


def _row(function: Callable[..., PyTree], merged: int = 1) -> Callable[..., PyTree]:
    """``jax.vmap(function)``, `merged` axes in one; a vmap of it merges one more."""
    along = jax.vmap(function)

    @custom_vmap
    def row(*arguments):
        return along(*arguments)

    @row.def_vmap
    def _(size, mapped, *arguments):
        arguments = _repeated(size, mapped, arguments)
        if merged == 2 and not jax.sharding.get_abstract_mesh().empty:
            return _mapped(jax.vmap(along)(*arguments))
        # Sizes are said, not asked for by −1: a leaf may have an axis of size 0.
        flat = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), arguments)
        results = _row(function, merged + 1)(*flat)
        return _mapped(jax.tree.map(lambda leaf: leaf.reshape(size, len(leaf) // size, *leaf.shape[1:]), results))

    return row


def _repeated(size: int, mapped: Any, arguments: PyTree) -> PyTree:
    """The arguments with a leading axis of this size in every leaf, those that are not mapped repeated along it."""
    leaves, structure = jax.tree.flatten(arguments)
    repeated = [
        leaf if is_mapped else jnp.broadcast_to(leaf, (size, *jnp.shape(leaf)))
        for leaf, is_mapped in zip(leaves, jax.tree.leaves(mapped), strict=True)
    ]
    return jax.tree.unflatten(structure, repeated)


def _mapped(results: PyTree) -> tuple[PyTree, PyTree]:
    """What a vmap rule returns: the results, and that each of them has the axis."""
    return results, jax.tree.map(lambda _: True, results)
