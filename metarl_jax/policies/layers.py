"""Multilayer perceptrons in flax.linen."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.policies.dense import dense
from metarl_jax.precision import full_precision
from metarl_jax.types import PyTree

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class _MLP(nn.Module):
    features: Sequence[int]
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, observation):
        hidden = jnp.asarray(observation, float)
        for index, size in enumerate(self.features):
            # Glorot weights and zero biases, as in the code of the MAML and ProMP papers.
            hidden = nn.Dense(
                size,
                kernel_init=nn.initializers.glorot_uniform(),
                param_dtype=float,
                dot_general=lambda x, weight, *_, **__: dense(x, weight),
            )(hidden)
            if index < len(self.features) - 1:
                hidden = self.activation(hidden)
        return hidden


def layer_sizes(what: str, sizes: Sequence[int]) -> list[int]:
    """The sizes of hidden layers, as integers.

    Raises:
        ValueError: `sizes` is not a sequence of positive integers.
    """
    if not isinstance(sizes, Sequence):
        raise ValueError(f"{what} is {sizes!r}; it must be a sequence of layer sizes, such as (64, 64)")
    return [checks.integer(f"a layer size in {what}", size) for size in sizes]


def network(input_size: int, output_size: int, hidden: Sequence[int], activation: str):
    """A multilayer perceptron: ``(init: key → w, apply: (w, x [..., input_size]) → [..., output_size])``."""
    module = _MLP((*layer_sizes("hidden", hidden), output_size), checks.choose("activation", activation, ACTIVATIONS))

    def init(key: jax.Array) -> PyTree:
        return module.init(key, jnp.zeros(input_size))["params"]

    @full_precision
    def apply(params: PyTree, observation: jax.Array) -> jax.Array:
        return jnp.asarray(module.apply({"params": params}, observation))

    return init, apply


def value_mlp(
    input_size: int, hidden: Sequence[int] = (64, 64), activation: str = "tanh"
) -> tuple[Callable[[jax.Array], PyTree], Callable[[PyTree, jax.Array], jax.Array]]:
    """A scalar function of its input: ``(init: key → w, apply: (w, x [..., input_size]) → [...])``.

    The last layer's initial weights are Glorot weights times 0.01, so that initial outputs are near 0.

    Raises:
        ValueError: a size is not positive or the activation is unknown.
    """
    init_network, apply_network = network(checks.integer("input_size", input_size), 1, hidden, activation)
    last = f"Dense_{len(hidden)}"

    def init(key: jax.Array) -> PyTree:
        params = init_network(key)
        return {**params, last: jax.tree.map(lambda leaf: 0.01 * leaf, params[last])}

    return init, lambda params, x: apply_network(params, x)[..., 0]
