"""Rules of optax inside the inner loop, where they are differentiated, at zero gradient too."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metarl_jax.base import InnerOptimizer
from metarl_jax.types import PyTree


def from_optax(transformation: optax.GradientTransformation) -> InnerOptimizer:
    """An optax optimiser inside the inner loop. Its state goes from one inner step to the next.

    The meta-gradient differentiates through it, and most rules of optax take a root that has no derivative at a zero
    gradient: `optax.adam` that of every component's square, `optax.clip_by_global_norm` that of the sum of all. There,
    one task that pays nothing would make the whole batch's meta-gradient NaN. So the steps are the rule's own, and
    their derivative is taken beside the corner: where a component of the gradient is less than 1e-8, as at 1e-8, and
    where an array of φ is 0, as a little away from it. Where the rule is smooth that changes nothing.

    Args:
        transformation: such as ``optax.adamw(0.01)``; one that asks for a loss or its value, as a line search does,
            cannot be used.

    Raises:
        ValueError: it is no such transformation; at a step, it asks for more than gradient and φ.
    """
    if not isinstance(transformation, optax.GradientTransformation):
        raise ValueError(
            f"transformation is {transformation!r}; it must be an optax.GradientTransformation, such as optax.sgd(0.1)"
        )

    def update(gradient, state, params, learned=()):
        try:
            steps, after = transformation.update(gradient, state, params)
            aside = transformation.update(_off_zero(gradient, jnp.abs), state, _off_zero(params, _largest))
        except TypeError as error:
            raise ValueError(
                f"the optax rule cannot be an inner optimizer: it asks for more than a gradient and parameters, or for "
                f"others: {error}"
            ) from error
        steps, after = jax.tree.map(_valued, (steps, after), aside)
        return optax.apply_updates(params, steps), after

    return InnerOptimizer(transformation.init, update)


_CORNER = 1e-8


def _largest(leaf: jax.Array) -> jax.Array:
    return jnp.abs(leaf).max(initial=0)


def _off_zero(tree: PyTree, size: Callable[[jax.Array], jax.Array]) -> PyTree:
    """The tree, with derivative 1, moved to `_CORNER` where its size is less."""

    def move(leaf):
        distance = jnp.where(size(leaf) < _CORNER, _CORNER - leaf, 0)
        return leaf + jax.lax.stop_gradient(distance)

    return jax.tree.map(move, tree)


def _valued(value: jax.Array, derivative: jax.Array) -> jax.Array:
    """The first one's value with the second one's derivative."""
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return value
    return jax.lax.stop_gradient(value) + (derivative - jax.lax.stop_gradient(derivative))


def smooth(transformation: optax.GradientTransformation) -> InnerOptimizer:
    """A transformation that has a derivative wherever it is used, as it is."""

    def update(gradient, state, params, learned=()):
        steps, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, steps), state

    return InnerOptimizer(transformation.init, update)
