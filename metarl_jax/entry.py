"""Argument checks for the four functions of an algorithm, before JAX or flax sees the arguments."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import MetaAlgorithm, Online, Policy
from metarl_jax.precision import full_precision
from metarl_jax.types import MetaState, PyTree, is_key


def entry_points(
    init: Callable[..., Any],
    update: Callable[..., Any],
    adapt: Callable[..., Any],
    gradient: Callable[..., Any],
    policy: Policy | None = None,
    online: Online | None = None,
) -> MetaAlgorithm:
    """Builds a `MetaAlgorithm` whose functions run in full precision and check their arguments.

    The checks run at trace time, so compiled programs have no overhead. They raise ValueError if `key` is not a single
    key, if `state` is not a `MetaState`, or if θ is a state, a key, or the stacked θ of several seeds.

    Args:
        init: ``key → MetaState``.
        update: ``(key, state) → (state, metrics)``.
        adapt: ``(key, θ, task, steps, deterministic) → Adaptation``.
        gradient: ``(key, θ) → (gradient, metrics)``.
        policy: the policy that acts with φ, if the algorithm provides it.
        online: the adapter for an environment outside the program, if the algorithm provides it.
    """

    @full_precision
    def checked_init(key):
        _check_key(key)
        return init(key)

    @full_precision
    def checked_update(key, state):
        _check_key(key)
        if not isinstance(state, MetaState):
            raise ValueError(
                f"state is {_words(state)}; update takes (key, state), and a state is what init and update return"
            )
        return update(key, state)

    @full_precision
    def checked_adapt(key, theta, task, steps=None, deterministic=False):
        _check_theta(key, theta, init)
        if not checks.boolean("deterministic", deterministic):  # a user's own `adapt` need not take it
            return adapt(key, theta, task, steps)
        check_deterministic(adapt)
        return adapt(key, theta, task, steps, deterministic=True)

    @full_precision
    def checked_gradient(key, theta):
        _check_theta(key, theta, init)
        return gradient(key, theta)

    return MetaAlgorithm(checked_init, checked_update, checked_adapt, checked_gradient, policy, online)


def check_deterministic(adapt: Callable) -> None:
    """Raises ValueError if a user's own `adapt` has no argument `deterministic`."""
    parameters = inspect.signature(adapt).parameters
    if "deterministic" not in parameters and all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
        raise ValueError("deterministic is True, and this algorithm's adapt does not take it; leave deterministic out")


def _words(value: Any) -> str:
    if isinstance(value, MetaState):
        return "a MetaState"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array {value.dtype}{list(value.shape)}"
    return repr(value) if isinstance(value, int | float | str) or value is None else f"of type {type(value).__name__}"


def _may_be_a_key(value: Any) -> bool:
    """A typed key or a legacy uint32 key, of any shape."""
    return is_key(value) or getattr(value, "dtype", None) == jnp.uint32


def _check_key(key: Any) -> None:
    if not _may_be_a_key(key):
        raise ValueError(f"key is {_words(key)}; the first argument is a key, such as jax.random.key(0)")
    batch_axes = key.ndim if is_key(key) else key.ndim - 1
    if batch_axes:
        raise ValueError(f"key has shape {list(key.shape)}, and one key is wanted; take one, or jax.vmap over several")


def seeds_of(theta: PyTree, shapes: Sequence[tuple[int, ...]]) -> int:
    """R, if θ is that of R seeds: each leaf has its shape in `shapes` after a leading axis; otherwise 0."""
    found = [jnp.shape(leaf) for leaf in jax.tree.leaves(theta)]
    stacked = [own[1:] == shape and own[:1] for own, shape in zip(found, shapes, strict=True)]
    return found[0][0] if stacked and all(stacked) else 0


def _check_theta(key: Any, theta: Any, init: Callable[..., MetaState]) -> None:
    _check_key(key)
    if isinstance(theta, MetaState):
        raise ValueError("θ is a MetaState; pass its params: state.params")
    if _may_be_a_key(theta):
        raise ValueError("θ is a key; the arguments are (key, θ), and the task after them where there is one")
    expected = jax.eval_shape(init, key).params
    if jax.tree.structure(expected) != jax.tree.structure(theta):
        return  # a tree of another structure may be intended
    if seeds := seeds_of(theta, [leaf.shape for leaf in jax.tree.leaves(expected)]):
        raise ValueError(
            f"θ is that of {seeds} seeds, by its leading axis; take one, jax.tree.map(lambda leaf: leaf[0], θ), or "
            "jax.vmap over them"
        )
