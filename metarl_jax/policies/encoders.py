"""Encoders: an observation, which may hold pictures, as one vector that a network reads."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import observations
from metarl_jax.policies.dense import dense
from metarl_jax.policies.layers import layer_sizes
from metarl_jax.precision import full_precision
from metarl_jax.types import Key, PyTree

CHANNELS = (16, 32)
"""of the convolutions, one layer each, if nothing else is asked for"""
WIDTH, STRIDE = 3, 2


class Encoder(NamedTuple):
    """Maps observations to vectors [size]. Networks keep its parameters beside their own."""

    size: int
    init: Callable[[Key], dict[str, PyTree]]
    """``key → {"pictures": [the convolutions of each picture]}``; ``{}`` if there are none"""
    apply: Callable[[PyTree, PyTree], jax.Array]
    """``(parameters, of which it reads "pictures", observation with leaves [..., *shape]) → [..., size]``"""


def encoder(shapes: PyTree, channels: Sequence[int] | None = None) -> Encoder:
    """The vector of an observation: its arrays, each read by its kind, one after the other in JAX's order.

    A picture is an array [height, width, channels]. It passes convolutions with windows of 3 × 3, a stride of 2, zeros
    beyond its edges and relu, and is then flattened. If its dtype is uint8, it is divided by 255 before. Other arrays
    have at most two axes. They are flattened and become real numbers: integers by their value, booleans as 0 and 1.

    Args:
        shapes: an `observation_shape` of `TaskEnv`, or n for a vector [n], which is read as it is.
        channels: channels of the convolutions, one layer each; empty: pictures are flattened. None means (16, 32).

    Raises:
        ValueError: a leaf has more than three axes, `channels` is not a sequence of positive integers, or is given for
            an observation without a picture; at a call, an observation has other shapes.
    """
    leaves = observations.leaves_of(shapes)
    for leaf in leaves:
        if len(leaf.shape) > 3:
            raise ValueError(
                f"the observation{leaf.name} has shape {leaf.shape}, which no default network reads; return a picture "
                "[height, width, channels], or fewer axes, or hand in a Policy of your own"
            )
    pictures = [leaf for leaf in leaves if len(leaf.shape) == 3]
    if channels is not None and not pictures:
        raise ValueError(
            f"channels is {channels!r}, for convolutions, and the observation holds no picture [height, width, "
            "channels]; leave channels out"
        )
    layers = layer_sizes("channels", CHANNELS if channels is None else channels)

    def init(key: Key) -> dict[str, PyTree]:
        if not pictures or not layers:
            return {}
        keys = jax.random.split(key, len(pictures))
        return {
            "pictures": [_init_convolutions(k, leaf.shape[-1], layers) for k, leaf in zip(keys, pictures, strict=True)]
        }

    @full_precision
    def apply(params: PyTree, observation: PyTree) -> jax.Array:
        found, parts = observations.arrays(shapes, observation), []
        convolutions = iter(params["pictures"]) if pictures and layers else itertools.repeat(())
        for leaf, array in zip(leaves, found, strict=True):
            numbers = array.astype(float)
            if len(leaf.shape) == 3:
                numbers = numbers / 255 if array.dtype == jnp.uint8 else numbers
                numbers = functools.reduce(_convolution, next(convolutions), numbers)
            parts.append(numbers.reshape(*array.shape[: array.ndim - len(leaf.shape)], -1))
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)

    return Encoder(sum(_encoded_size(leaf.shape, layers) for leaf in leaves), init, apply)


def _encoded_size(shape: tuple[int, ...], layers: Sequence[int]) -> int:
    """Components of an array of this shape after the convolutions, of which each halves height and width."""
    if len(shape) < 3 or not layers:
        return math.prod(shape)
    height, width, _ = shape
    for _ in layers:
        height, width = -(-height // STRIDE), -(-width // STRIDE)
    return height * width * layers[-1]


def _init_convolutions(key: Key, inputs: int, layers: Sequence[int]) -> PyTree:
    """Weights by He et al. (2015, arXiv:1502.01852), for relu, and zero biases."""
    draw, sizes = jax.nn.initializers.he_uniform(), [inputs, *layers]
    return [
        {
            "kernel": draw(jax.random.fold_in(key, i), (WIDTH * WIDTH * sizes[i], size), float),
            "bias": jnp.zeros(size, float),
        }
        for i, size in enumerate(layers)
    ]


@jax.jit
def _convolution(x: jax.Array, params: PyTree) -> jax.Array:
    """relu(windows of x · kernel + bias), ``[..., H, W, C] → [..., ⌈H/2⌉, ⌈W/2⌉, O]``, kernel [9 C, O], bias [O].

    As a product of matrices, since under a vmap over tasks, each with its own kernel, XLA's convolution becomes a
    grouped one, which is slow on CPUs.
    """
    return jax.nn.relu(dense(_windows(x), params["kernel"]) + params["bias"])


def _windows(x: jax.Array) -> jax.Array:
    """The window around every second place, ``[..., H, W, C] → [..., ⌈H/2⌉, ⌈W/2⌉, 9 C]``.

    Beyond the edges are zeros: as many on both sides, or one more at the end.
    """
    out = [-(-size // STRIDE) for size in x.shape[-3:-1]]
    missing = [max((n - 1) * STRIDE + WIDTH - size, 0) for n, size in zip(out, x.shape[-3:-1], strict=True)]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(least // 2, least - least // 2) for least in missing] + [(0, 0)])

    def every_second(i, j):
        rows, columns = (slice(k, k + STRIDE * (n - 1) + 1, STRIDE) for k, n in zip((i, j), out, strict=True))
        return padded[..., rows, columns, :]

    return jnp.concatenate([every_second(i, j) for i in range(WIDTH) for j in range(WIDTH)], axis=-1)
