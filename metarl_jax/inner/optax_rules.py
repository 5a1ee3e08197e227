"""Optax optimisers as inner optimisers, made differentiable at zero gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metarl_jax.base import InnerOptimizer
from metarl_jax.types import PyTree


def from_optax(transformation: optax.GradientTransformation) -> InnerOptimizer:
    """Wraps an optax optimiser for the inner loop. Its state is carried from one inner step to the next.

    The meta-gradient differentiates through the optimiser, but most optax rules take a square root with no derivative
    at a zero gradient: `optax.adam` of each squared component, `optax.clip_by_global_norm` of the sum of squares. A
    single task without reward would make the meta-gradient of the whole batch NaN. So steps have the rule's values, but
    derivatives are evaluated next to the singularity: gradient components smaller than 1e-8 are replaced by 1e-8, and
    an all-zero array of φ is shifted slightly. Smooth rules are not affected.

    Args:
        transformation: for example ``optax.adamw(0.01)``; rules that need the loss or its value, such as line searches,
            are not supported.

    Raises:
        ValueError: it is not a GradientTransformation; at a step, it needs more than the gradient and φ.
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
    """The tree with values smaller in size than `_CORNER` set to `_CORNER`, and with derivative 1."""

    def move(leaf):
        distance = jnp.where(size(leaf) < _CORNER, _CORNER - leaf, 0)
        return leaf + jax.lax.stop_gradient(distance)

    return jax.tree.map(move, tree)


def _valued(value: jax.Array, derivative: jax.Array) -> jax.Array:
    """The value of the first argument with the derivative of the second."""
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return value
    return jax.lax.stop_gradient(value) + (derivative - jax.lax.stop_gradient(derivative))


def smooth(transformation: optax.GradientTransformation) -> InnerOptimizer:
    """Wraps an optax optimiser that is differentiable everywhere, without modification."""

    def update(gradient, state, params, learned=()):
        steps, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, steps), state

    return InnerOptimizer(transformation.init, update)
