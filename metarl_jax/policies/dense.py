"""The product of a dense layer, with a weight gradient that is fast on CPUs; results are those of a plain product.

On a CPU, XLA computes x W fast, but xᵀg, which sums over the rows of both, at half to a tenth of that speed. Hence the
weight gradient copies x transposed first. This applies to derivatives of any order, since they consist of the same two
products, x W and xᵀg: each is bilinear, and its derivatives are again of these two forms.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_config: Any = jax.config  # its type stubs do not list the options


def dense(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x W, ``[..., I], [I, O] → [..., O]``, in JAX's default matmul precision at trace time.

    Raises:
        ValueError: the shapes do not match.
    """
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"x {x.shape} and weight {weight.shape} have no product; they must be [..., I] and [I, O]")
    dtype = jnp.result_type(x, weight)
    x, weight = x.astype(dtype), weight.astype(dtype)
    return rows_p.bind(x, weight, turned=False, precision=_config.jax_default_matmul_precision)


def _rows(x, weight, turned, precision):
    """x W, or x Wᵀ if `turned`."""
    with jax.default_matmul_precision(precision):
        return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (int(turned),)), ((), ())))


def _columns(x, g, precision):
    """Σ_r x_r g_rᵀ over all rows, ``[..., I], [..., O] → [I, O]``."""
    rows = tuple(range(x.ndim - 1))
    with jax.default_matmul_precision(precision):
        return jax.lax.dot_general(x, g, ((rows, rows), ((), ())))


def _columns_by_copy(x, g, precision):
    x, g = (leaf.reshape(-1, leaf.shape[-1]) for leaf in (x, g))
    # The barriers keep XLA from recomputing x in the copy's memory order, and from removing the copy.
    copy = jax.lax.optimization_barrier(jax.lax.optimization_barrier(x).T)
    return _rows(copy, g, False, precision)


def _batched_rows(arguments, axes, turned, precision):
    x, weight = arguments
    if axes[1] is None:
        return rows_p.bind(jnp.moveaxis(x, axes[0], 0), weight, turned=turned, precision=precision), 0
    product = functools.partial(_rows, turned=turned, precision=precision)
    return jax.vmap(product, axes)(x, weight), 0


def _batched_columns(arguments, axes, precision):
    return jax.vmap(functools.partial(_columns, precision=precision), axes)(*arguments), 0


def _weight_gradient(out, x, weight, turned, precision):
    pair = (out, x) if turned else (x, out)
    return columns_p.bind(*pair, precision=precision)


rows_p = Primitive("rows_by_weight")
rows_p.def_impl(_rows)
rows_p.def_abstract_eval(lambda x, weight, turned, **_: x.update(shape=(*x.shape[:-1], weight.shape[not turned])))
ad.defbilinear(
    rows_p,
    lambda out, x, weight, turned, precision: rows_p.bind(out, weight, turned=not turned, precision=precision),
    _weight_gradient,
)
batching.primitive_batchers[rows_p] = _batched_rows
mlir.register_lowering(rows_p, mlir.lower_fun(_rows, multiple_results=False))

columns_p = Primitive("columns_by_columns")
columns_p.def_impl(_columns)
columns_p.def_abstract_eval(lambda x, g, **_: x.update(shape=(x.shape[-1], g.shape[-1])))
ad.defbilinear(
    columns_p,
    lambda out, x, g, precision: rows_p.bind(g, out, turned=True, precision=precision),
    lambda out, x, g, precision: rows_p.bind(x, out, turned=False, precision=precision),
)
batching.primitive_batchers[columns_p] = _batched_columns
mlir.register_lowering(columns_p, mlir.lower_fun(_columns, multiple_results=False))
mlir.register_lowering(columns_p, mlir.lower_fun(_columns_by_copy, multiple_results=False), platform="cpu")
