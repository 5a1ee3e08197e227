"""Networks of learned update rules: they process a rollout backwards and output targets for the agent's update."""

from collections.abc import Callable
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metarl_jax import checks
from metarl_jax.policies.networks import orthogonal
from metarl_jax.types import Key, PyTree

STEP_INPUTS = 4
"""r_t, d_t, γ, and π(a_t|s_t) mapped to (0, 1)"""
EMBEDDING = 16


class UpdateRule(NamedTuple):
    """Computes targets for an agent's policy and predictions from a rollout, processed backwards."""

    init: Callable[[Key], PyTree]
    """``key → θ``"""
    apply: Callable[..., tuple[jax.Array, jax.Array]]
    """``(θ, steps [N, T, 4], y [N, T, m], next_y [N, T, m], valid [N, T]) → (π̂ [N, T], logits of ŷ [N, T, m])``;
    y and next_y are the probabilities y(s_t) and y(s_{t+1}), the latter 0 after the end of the episode"""


class _Embedding(nn.Module):
    @nn.compact
    def __call__(self, prediction):
        hidden = nn.relu(nn.Dense(EMBEDDING, param_dtype=float)(prediction))
        return nn.Dense(1, param_dtype=float)(hidden)


def backward_lstm(prediction_size: int, units: int) -> UpdateRule:
    """The network of Oh et al. (2020, arXiv:2007.08794): an LSTM from the last step of a rollout to the first.

    x_t = [r_t, d_t, γ, π(a_t|s_t), e(y(s_t)), e(y(s_{t+1}))] with a scalar embedding e. π̂_t and ŷ_t are linear in the
    LSTM's output. Each row is a segment of one episode, and the state is 0 at its end: no information flows back from
    padding or from another episode.

    Args:
        prediction_size: m, the number of categories of y.
        units: size of the LSTM.

    Raises:
        ValueError: a size is not a positive integer.
    """
    checks.integer("prediction_size", prediction_size)
    checks.integer("units", units)
    embedding, cell = _Embedding(), nn.OptimizedLSTMCell(units, recurrent_kernel_init=orthogonal, param_dtype=float)
    policy_head, prediction_head = nn.Dense(1, param_dtype=float), nn.Dense(prediction_size, param_dtype=float)

    def zero_state(*lead):
        return (jnp.zeros((*lead, units)),) * 2

    def init(key: Key) -> PyTree:
        keys = jax.random.split(key, 4)
        modules = {
            "embedding": (embedding, jnp.zeros(prediction_size)),
            "lstm": (cell, zero_state(), jnp.zeros(STEP_INPUTS + 2)),
            "policy": (policy_head, jnp.zeros(units)),
            "prediction": (prediction_head, jnp.zeros(units)),
        }
        return {
            name: module.init(module_key, *inputs)["params"]
            for module_key, (name, (module, *inputs)) in zip(keys, modules.items(), strict=True)
        }

    def apply(
        params: PyTree,
        steps: Float[Array, "N T 4"],
        y: Float[Array, "N T m"],
        next_y: Float[Array, "N T m"],
        valid: Bool[Array, "N T"],
    ) -> tuple[Float[Array, "N T"], Float[Array, "N T m"]]:
        def run(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
            return jnp.asarray(module.apply({"params": params[name]}, x))

        embedded = [run(embedding, "embedding", values) for values in (y, next_y)]
        inputs = jnp.concatenate([steps, *embedded], axis=-1)

        def step(memory, inputs_t):
            x, valid_t = inputs_t
            after, output = cast(tuple, cell.apply({"params": params["lstm"]}, memory, x))
            return jax.tree.map(lambda new, old: jnp.where(valid_t[:, None], new, old), after, memory), output

        by_time = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (inputs, valid))
        _, outputs = jax.lax.scan(step, zero_state(len(valid)), by_time, reverse=True)
        outputs = jnp.swapaxes(outputs, 0, 1)
        return run(policy_head, "policy", outputs)[..., 0], run(prediction_head, "prediction", outputs)

    return UpdateRule(init, apply)
