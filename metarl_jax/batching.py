"""Merges nested vmaps into one batch axis, so that physics runs on tasks × episodes as one long row.

A `vmap` over tasks of a `vmap` over episodes gives the compiler arrays [B, N, ...] with two batch axes, and it inserts
transposes around matrix products. On a GPU these are one kernel launch in nine of a Brax step, whose run time is
proportional to the number of launches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from metarl_jax.types import PyTree

_config: Any = jax.config  # jax.config is untyped: its options are not declared


def one_axis(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Wraps a function so that nested vmaps are merged: it receives [B·N, ...] where the vmaps map [B, N, ...].

    Results are the same up to rounding. An argument that the inner vmap does not map, such as a task shared by N
    episodes, is repeated N times. The function is traced once and may close over traced values. Under a device mesh
    only two vmaps are merged, over tasks and over episodes, because seeds are sharded along a separate axis. With JIT
    disabled nothing is merged, so a debugger sees the function's own operations.

    Args:
        function: a function from arrays and typed keys to arrays and typed keys. It is not differentiable.
    """

    def merged(*arguments):
        if _config.jax_disable_jit:
            return function(*arguments)
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        is_traced = [isinstance(const, Tracer) for const in closed.consts]

        # Traced values that the function closes over become arguments, because a vmap may map them. Concrete constants
        # do not, so they are not repeated.
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
        # Stop gradients here: custom_vmap has no reverse-mode rule.
        return single(*jax.lax.stop_gradient((traced, *arguments)))

    return merged


def _row(function: Callable[..., PyTree], merged: int = 1) -> Callable[..., PyTree]:
    """``jax.vmap(function)`` over `merged` axes in one; a vmap of the result merges one more axis."""
    along = jax.vmap(function)

    @custom_vmap
    def row(*arguments):
        return along(*arguments)

    @row.def_vmap
    def _(size, mapped, *arguments):
        arguments = _repeated(size, mapped, arguments)
        if merged == 2 and not jax.sharding.get_abstract_mesh().empty:
            return _mapped(jax.vmap(along)(*arguments))
        # Explicit sizes instead of −1: a leaf may have an axis of size 0.
        flat = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), arguments)
        results = _row(function, merged + 1)(*flat)
        return _mapped(jax.tree.map(lambda leaf: leaf.reshape(size, len(leaf) // size, *leaf.shape[1:]), results))

    return row


def _repeated(size: int, mapped: Any, arguments: PyTree) -> PyTree:
    """The arguments with a leading axis of this size in each leaf; unmapped leaves are broadcast along it."""
    leaves, structure = jax.tree.flatten(arguments)
    repeated = [
        leaf if is_mapped else jnp.broadcast_to(leaf, (size, *jnp.shape(leaf)))
        for leaf, is_mapped in zip(leaves, jax.tree.leaves(mapped), strict=True)
    ]
    return jax.tree.unflatten(structure, repeated)


def _mapped(results: PyTree) -> tuple[PyTree, PyTree]:
    """The return value of a vmap rule: the results, and a tree that marks each of them as mapped."""
    return results, jax.tree.map(lambda _: True, results)
