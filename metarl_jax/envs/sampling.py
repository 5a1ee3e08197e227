"""Task distributions shared by several families, and the shifted ranges of their out-of-distribution splits."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.types import Key

FULL_CIRCLE = (0.0, 2 * math.pi)


def sign(key: Key) -> jax.Array:
    """[] −1 or +1, equally likely."""
    return 2.0 * jnp.asarray(jax.random.bernoulli(key), float) - 1.0


def uniform(key: Key, bounds: tuple[float, float]) -> jax.Array:
    """[] uniform in [low, high)."""
    return jax.random.uniform(key, (), minval=bounds[0], maxval=bounds[1])


def on_circle(key: Key, angle_range: tuple[float, float] = FULL_CIRCLE, radius: float = 1.0) -> jax.Array:
    """[2] uniform on an arc of the circle around (0, 0); `angle_range` in radians."""
    angle = uniform(key, angle_range)
    return radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def in_ring(key: Key, inner: float, outer: float) -> jax.Array:
    """[2] uniform in the ring inner ≤ ‖g‖₂ < outer, a disk if inner = 0."""
    radius_key, angle_key = jax.random.split(key)
    hole = (inner / outer) ** 2
    # The area within radius r grows with r², hence the square root.
    radius = outer * jnp.sqrt(hole + (1 - hole) * jax.random.uniform(radius_key))
    return radius * on_circle(angle_key)


def in_square(key: Key, bounds: tuple[float, float], hole: float = 0.0) -> jax.Array:
    """[2] uniform in [low, high]² outside the concentric square of `hole` times its width."""
    if hole == 0:
        return jax.random.uniform(key, (2,), minval=bounds[0], maxval=bounds[1])
    direction_key, scale_key = jax.random.split(key)
    direction = jax.random.uniform(direction_key, (2,), minval=-1, maxval=1)
    # For a uniform point, the direction (projected onto the boundary) and the scale s along it are independent, and s²
    # is uniform.
    edge = direction / jnp.abs(direction).max()
    scale = jnp.sqrt(hole**2 + (1 - hole**2) * jax.random.uniform(scale_key))
    center, half = (bounds[1] + bounds[0]) / 2, (bounds[1] - bounds[0]) / 2
    return center + half * scale * edge


Shift = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""``options of a family → the options that another split changes``"""


def above(option: str) -> Shift:
    """The adjacent range of half the width above: (low, high) becomes (high, high + (high − low)/2)."""

    def shift(options):
        low, high = options[option]
        return {option: (high, high + (high - low) / 2)}

    return shift


def around(option: str, hole: str = "goal_hole") -> Shift:
    """The square 1.5 times as wide as the one in `option`, without the latter."""

    def shift(options):
        low, high = options[option]
        margin = (high - low) / 4
        return {option: (low - margin, high + margin), hole: 2 / 3}

    return shift


def opposite(option: str) -> Shift:
    """The range of angles in `option`, rotated by half a turn; raises a ValueError if the two would overlap."""

    def shift(options):
        low, high = options[option]
        if high - low > math.pi + 1e-6:
            raise ValueError(f"{option} is {options[option]}; more than half a turn leaves no other half for 'ood'")
        return {option: (low + math.pi, high + math.pi)}

    return shift


def times(option: str, factor: float) -> Shift:
    """The number in `option` times `factor`."""
    return lambda options: {option: factor * options[option]}


def beyond(option: str, width: float) -> Shift:
    """The adjacent range of this width above the one in `option`."""
    return lambda options: {option: (options[option][1], options[option][1] + width)}
