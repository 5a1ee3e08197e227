"""Recurrent policies f_θ: a gated recurrent unit processes the history step by step."""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.actions import vector_size
from metarl_jax.base import Policy, RecurrentPolicy, TaskEnv
from metarl_jax.observations import shapes_of
from metarl_jax.policies.encoders import Encoder
from metarl_jax.policies.encoders import encoder as observation_encoder
from metarl_jax.policies.layers import layer_sizes, value_mlp
from metarl_jax.policies.networks import mlp, orthogonal
from metarl_jax.precision import full_precision
from metarl_jax.types import Percept, PyTree


def _as_input(seen: jax.Array, percept: Percept) -> jax.Array:
    """[encoded observation, last action, last reward, whether an episode begins] as one vector."""
    flags = jnp.stack([jnp.asarray(percept.reward, float), jnp.asarray(percept.start, float)])
    return jnp.concatenate([seen, percept.action, flags])


def _gru(input_size: int, memory_size: int) -> tuple[Callable, Callable, Callable]:
    """``init``, ``start`` and ``remember`` of a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078)."""
    cell = nn.GRUCell(memory_size, recurrent_kernel_init=orthogonal, param_dtype=float)
    blank = jnp.zeros(memory_size, float)

    def init(key: jax.Array) -> PyTree:
        return cell.init(key, blank, jnp.zeros(input_size, float))["params"]

    def remember(params: PyTree, memory: jax.Array, read: jax.Array) -> jax.Array:
        return cell.apply({"params": params}, memory, read)[0]

    return init, lambda: jnp.zeros(memory_size, float), remember


def _input_size(encode: Encoder, env: TaskEnv) -> int:
    return encode.size + vector_size(env) + 2


def _gate(input_size: int, memory_size: int) -> tuple[Callable, Callable]:
    """``init`` and ``apply`` of the gate 2σ(W s + b) in (0, 2)^M; initially 1 for s = 0 and distinct per one-hot s."""
    layer = nn.Dense(memory_size, kernel_init=nn.initializers.normal(1.0), param_dtype=float)

    def init(key: jax.Array) -> PyTree:
        return layer.init(key, jnp.zeros(input_size, float))["params"]

    @full_precision
    def apply(params: PyTree, seen: jax.Array) -> jax.Array:
        return 2 * jax.nn.sigmoid(jnp.asarray(layer.apply({"params": params}, seen)))

    return init, apply


def _transition_encoder(input_size: int, sizes: Sequence[int]) -> tuple[Callable, Callable, int]:
    """``init``, ``apply`` and output size of a stack of relu layers."""
    sizes = layer_sizes("encoder", sizes)
    layers = nn.Sequential([layer for size in sizes for layer in (nn.Dense(size, param_dtype=float), nn.relu)])

    def init(key: jax.Array) -> PyTree:
        return layers.init(key, jnp.zeros(input_size, float))["params"]

    @full_precision
    def apply(params: PyTree, read: jax.Array) -> jax.Array:
        return jnp.asarray(layers.apply({"params": params}, read))

    return init, apply, [input_size, *sizes][-1]


def gru(
    env: TaskEnv,
    memory_size: int = 64,
    hidden: Sequence[int] = (),
    activation: str = "tanh",
    encoder: Sequence[int] = (),
    gated: bool = False,
    channels: Sequence[int] | None = None,
    **distribution_options,
) -> RecurrentPolicy:
    """m_t = GRU(m_{t−1}, x_t), x_t = [s_t, a_{t−1}, r_{t−1}, start_t], π(·|MLP(m_t)), V(MLP(m_t)): φ_t is the memory.

    With an encoder, the GRU's input is x_t = MLP([s_{t−1}, s_t, a_{t−1}, r_{t−1}, start_t]) with relu layers, and the
    memory is [m_t, s_t]. If gated, π and V get m_t ⊙ 2σ(W s_t + b) instead of m_t. Encoder and gate help if the policy
    must memorise the rewards of each state, as in a random MDP: writes then depend on products of state, action and
    reward, and reads on products of state and memory. A plain GRU learns for a long time only what holds in all states.

    Duan et al. (2016, arXiv:1611.02779), Wang et al. (2016, arXiv:1611.05763); encoder and gate are additions.

    Args:
        env: determines the input and output sizes.
        memory_size: size of the GRU's state.
        hidden: sizes of the layers between the memory and the outputs; empty: linear outputs.
        activation: activation of these layers, "tanh" or "relu".
        encoder: sizes of the encoder's layers; empty: no encoder.
        gated: whether the observation gates the memory that π and V read.
        channels: of the convolutions that read pictures, see `metarl_jax.policies.encoder`; s above is the encoded
            observation.
        **distribution_options: `distribution`, `init_std`, `min_std`, `learn_std` of `metarl_jax.policies.mlp`.

    Raises:
        ValueError: an option is out of range, or applies only to another distribution or only to real actions.
    """
    size, gated = checks.integer("memory_size", memory_size), checks.boolean("gated", gated)
    read = observation_encoder(shapes_of(env), channels)
    last_size = read.size if encoder else 0
    init_encoder, encode, encoded_size = _transition_encoder(_input_size(read, env) + last_size, encoder)
    init_memory, blank, remember = _gru(encoded_size, size)
    # The head is the default policy network, with the memory in place of an observation.
    on_memory = dataclasses.replace(env, observation_size=size, observation_shape=None)
    head = mlp(on_memory, hidden, activation, **distribution_options)
    init_value, value = value_mlp(size, hidden, activation)
    init_gate, gate = _gate(read.size, size)

    def init(key):
        memory_key, head_key, value_key = jax.random.split(key, 3)
        params = {"memory": init_memory(memory_key), "policy": head.init(head_key), "value": init_value(value_key)}
        if encoder:
            params["encoder"] = init_encoder(jax.random.fold_in(memory_key, 0))
        if gated:
            params["gate"] = init_gate(jax.random.fold_in(memory_key, 1))
        return params | read.init(jax.random.fold_in(memory_key, 2))

    def remember_transition(params, memory, percept):
        past, last = jnp.split(memory, [size])
        seen = read.apply(params, percept.observation)
        inputs = jnp.concatenate([last, _as_input(seen, percept)])
        if not encoder:
            return remember(params["memory"], past, inputs)
        new_memory = remember(params["memory"], past, encode(params["encoder"], inputs))
        return jnp.concatenate([new_memory, seen])

    def act(params, memory, observation):
        recalled = memory[:size]
        if gated:
            recalled = recalled * gate(params["gate"], read.apply(params, observation))
        return head.apply(params["policy"], recalled), value(params["value"], recalled)

    return RecurrentPolicy(
        init,
        start=lambda params: jnp.concatenate([blank(), jnp.zeros(last_size, float)]),
        remember=remember_transition,
        act=act,
        params=lambda params, memory: memory,
    )


def hypernetwork(
    env: TaskEnv, policy: Policy, memory_size: int = 64, channels: Sequence[int] | None = None
) -> RecurrentPolicy:
    """m_t as in `gru`, φ_t = b + W m_t, π_φt(·|s_t): a recurrent hypernetwork outputs the base policy's φ at each step.

    Initially W = 0 and b is an initialisation of the base policy, so that training starts from a policy of the usual
    scale, independent of the memory (Beck et al. 2022, arXiv:2210.11348, "Bias-HyperInit"; recurrent: Beck et al. 2023,
    arXiv:2309.14970).

    Args:
        env: determines the input sizes.
        policy: the base policy π_φ.
        memory_size: size of the memory.
        channels: of the convolutions by which memory and value read pictures, see `metarl_jax.policies.encoder`; the
            base policy has its own.

    Raises:
        ValueError: the size is not a positive integer, or `channels` is given and no observation is a picture.
    """
    size = checks.integer("memory_size", memory_size)
    read = observation_encoder(shapes_of(env), channels)
    init_memory, start, remember = _gru(_input_size(read, env), size)
    init_value, value = value_mlp(size + read.size, (size,), "tanh")

    def init(key):
        memory_key, policy_key, value_key = jax.random.split(key, 3)
        bias = jax.tree.map(jnp.asarray, policy.init(policy_key))
        kernel = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), bias)
        emit = {"kernel": kernel, "bias": bias}
        params = {"memory": init_memory(memory_key), "emit": emit, "value": init_value(value_key)}
        return params | read.init(jax.random.fold_in(memory_key, 0))

    def remember_percept(params, memory, percept):
        seen = read.apply(params, percept.observation)
        return remember(params["memory"], memory, _as_input(seen, percept))

    def phi(params, memory):
        emit = params["emit"]
        return jax.tree.map(lambda b, w: b + jnp.tensordot(memory, w, 1), emit["bias"], emit["kernel"])

    def act(params, memory, observation):
        value_input = jnp.concatenate([memory, read.apply(params, observation)])
        return policy.apply(phi(params, memory), observation), value(params["value"], value_input)

    return RecurrentPolicy(
        init,
        start=lambda params: start(),
        remember=remember_percept,
        act=act,
        params=phi,
    )
