"""The product of a dense layer and its derivatives of any order, against JAX's own product, in float64."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.policies.dense import dense
from tests import toys

B, R, I, K, O = 2, 5, 3, 4, 2  # noqa: E741


def network(product):
    """Σ over rows of a smooth function of two layers, so that each layer's derivatives hold the other's."""

    def scalar(weights, x):
        first, second = weights
        return jnp.sin(product(jnp.tanh(product(x, first)), second)).sum()

    return scalar


def drawn(*shapes, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


def third(function):
    def along(weights, x, direction):
        def slope(weights):
            def first(weights):
                return jax.jvp(lambda w: function(w, x), (weights,), (direction,))[1]

            return jax.jvp(first, (weights,), (direction,))[1]

        return jax.grad(slope)(weights)

    return along


DERIVATIVES = {
    "value": lambda f: lambda w, x, d: f(w, x),
    "gradient in both": lambda f: lambda w, x, d: jax.grad(f, (0, 1))(w, x),
    "forward": lambda f: lambda w, x, d: jax.jvp(f, (w, x), (d, jnp.ones_like(x))),
    "reverse over reverse": lambda f: (
        lambda w, x, d: jax.grad(lambda w: sum(jnp.vdot(a, b) for a, b in zip(jax.grad(f)(w, x), d, strict=True)))(w)
    ),
    "forward over reverse": lambda f: lambda w, x, d: jax.jvp(lambda w: jax.grad(f, (0, 1))(w, x), (w,), (d,)),
    "reverse in x of the gradient in w": lambda f: (
        lambda w, x, d: jax.grad(lambda x: sum(jnp.vdot(a, b) for a, b in zip(jax.grad(f)(w, x), d, strict=True)))(x)
    ),
    "linearized and transposed": lambda f: (
        lambda w, x, d: jax.linear_transpose(jax.linearize(lambda w: jax.grad(f)(w, x), w)[1], w)(d)
    ),
    "Hessian": lambda f: lambda w, x, d: jax.hessian(f)(w, x),
    "third order": third,
}


def every(kinds, product, weights, x, direction):
    return {kind: DERIVATIVES[kind](network(product))(weights, x, direction) for kind in kinds}


@pytest.mark.parametrize("rows", [(), (R,), (R, 2)])
def test_it_is_the_product_at_every_order(rows):
    with jax.enable_x64(True):
        x, *weights = drawn((*rows, I), (I, K), (K, O))
        direction = drawn((I, K), (K, O), seed=1)
        found, expected = (
            jax.jit(functools.partial(every, DERIVATIVES, product))(tuple(weights), x, direction)
            for product in (dense, jnp.matmul)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), found, expected)


MAPPED = ["value", "gradient in both", "forward over reverse"]


@pytest.mark.parametrize("axes", [(None, 0), ((0, 0), 0), ((0, 0), None), ((None, 1), 1), ((2, None), 2)])
def test_it_maps_like_the_product(axes):
    """Over tasks that share weights or have their own, and rows or not, whatever the axis."""
    of_weights, of_x = axes
    with jax.enable_x64(True):

        def batch(leaf, axis):
            return leaf if axis is None else jnp.stack([leaf, 0.5 - leaf], min(axis, leaf.ndim))

        x, first, second = drawn((R, I), (I, K), (K, O))
        direction = drawn((I, K), (K, O), seed=1)
        pair = of_weights or (None, None)
        given = tuple(map(batch, (first, second), pair)), batch(x, of_x), direction
        found, expected = (
            jax.jit(jax.vmap(functools.partial(every, MAPPED, product), (of_weights, of_x, None)))(*given)
            for product in (dense, jnp.matmul)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), found, expected)


def test_outside_of_a_program_too():
    x, weight = drawn((R, I), (I, K))
    np.testing.assert_allclose(dense(x, weight), np.asarray(x) @ np.asarray(weight), rtol=1e-5)
    gradient = jax.grad(lambda w: dense(x, w).sum())(weight)
    np.testing.assert_allclose(gradient, np.asarray(x).T @ np.ones((R, K)), rtol=1e-5)


def contracted(platform):
    """What the products of a Hessian's program sum over, of rank-2 operands: (axis of the left, axis of the right)."""
    policy = toys.small_policy(toys.walk())
    params = policy.init(jax.random.key(0))

    def loss(params, observations):
        return (jax.vmap(lambda o: policy.apply(params, o).mean)(observations) ** 2).sum()

    def product(params, observations):
        return jax.jvp(lambda p: jax.grad(loss)(p, observations), (params,), (params,))

    exported = jax.export.export(jax.jit(product), platforms=[platform])(params, jnp.ones((R, 1)))
    return set(re.findall(r"contracting_dims = \[(\d)\] x \[(\d)\]", exported.mlir_module()))


def test_no_product_on_a_cpu_sums_over_the_rows_of_its_left_side():
    assert contracted("cpu") <= {("1", "0"), ("1", "1")}
    assert ("0", "0") in contracted("cuda")


@pytest.mark.parametrize(
    ("of_x", "of_weight"), [("bfloat16", "float32"), ("float16", "bfloat16"), ("int32", "float32")]
)
def test_mixed_types_are_promoted_as_numpys_product_does(of_x, of_weight):
    x, weight = jnp.ones((R, I), of_x), jnp.ones((I, K), of_weight)
    found = jax.jit(dense)(x, weight)
    assert found.dtype == jnp.matmul(x, weight).dtype
    np.testing.assert_array_equal(found, I * np.ones((R, K)))


@pytest.mark.parametrize(("x", "weight"), [((2, 3), (4, 2)), ((), (1, 1)), ((3,), (3,))])
def test_sizes_that_do_not_fit_are_refused_before_anything_is_compiled(x, weight):
    with pytest.raises(ValueError, match="have no product"):
        jax.eval_shape(dense, jnp.ones(x), jnp.ones(weight))
