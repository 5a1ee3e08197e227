"""Multilayer perceptron policies."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import Policy, TaskEnv
from metarl_jax.observations import shapes_of
from metarl_jax.policies.distributions import Beta, Categorical, DiagonalGaussian, MultiCategorical, SquashedGaussian
from metarl_jax.policies.encoders import encoder
from metarl_jax.policies.layers import network
from metarl_jax.types import PyTree


def orthogonal(key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
    """A random orthogonal matrix [n, n]: the polar factor of a Gaussian matrix, by Newton–Schulz iteration.

    The distribution is the same as that of flax's initialiser, which uses a QR decomposition. In jaxlib 0.10, QR
    decompositions batched by a vmap over seeds or tasks deadlock on the CPU.
    """
    gaussian = jax.random.normal(key, shape, dtype)

    def step(x, _):
        return 1.5 * x - 0.5 * x @ x.T @ x, None

    # From a norm of at most 1, all singular values converge to 1; small ones grow by a factor of 1.5 per step.
    return jax.lax.scan(step, gaussian / jnp.linalg.norm(gaussian), None, length=60)[0]


def _body(
    observation_size: PyTree,
    output_size: int,
    hidden: Sequence[int],
    activation: str,
    context_size: int,
    channels: Sequence[int] | None,
):
    """``init``, ``apply`` and ``labels`` of a policy's network, whose input includes the context, if any."""
    context_size = checks.integer("context_size", context_size, least=0)
    encode = encoder(observation_size, channels)
    init_network, apply_network = network(encode.size + context_size, output_size, hidden, activation)

    def init(key: jax.Array) -> dict[str, PyTree]:
        context = {"context": jnp.zeros(context_size)} if context_size else {}
        return {"network": init_network(key)} | encode.init(jax.random.fold_in(key, 1)) | context

    def apply(params: PyTree, observation: PyTree) -> jax.Array:
        encoded = encode.apply(params, observation)
        if context_size:
            encoded = jnp.concatenate([encoded, params["context"].astype(encoded.dtype)])
        return apply_network(params["network"], encoded)

    def labels(params: PyTree) -> PyTree:
        last = f"Dense_{len(hidden)}"
        layers = {
            layer: dict.fromkeys(weights, "head" if layer == last else "body")
            for layer, weights in params["network"].items()
        }
        pictures = jax.tree.map(lambda _: "body", params.get("pictures"))
        by_name = {"network": layers, "pictures": pictures, "log_std": "std", "context": "context"}
        return {name: by_name[name] for name in params}

    return init, apply, labels


def _softplus_inverse(value: float) -> float:
    return value + math.log(-math.expm1(-value))


def gaussian_mlp(
    observation_size: PyTree,
    action_size: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    init_std: float = 1.0,
    min_std: float | None = None,
    learn_std: bool = True,
    context_size: int = 0,
    channels: Sequence[int] | None = None,
) -> Policy:
    """π(a|s) = N(MLP(s), σ²) with a state-independent σ [A].

    Args:
        observation_size: components of one observation, or its shapes: an `observation_shape` of `TaskEnv`.
        action_size: components of one action.
        hidden: sizes of the hidden layers.
        activation: "tanh" or "relu".
        init_std: σ at initialisation.
        min_std: lower bound of σ: log σ = log min_std + softplus(ρ − log min_std) with the parameter ρ. It is smooth,
            so that the gradient does not vanish near the bound; None: log σ = ρ. Inner steps scale with 1/σ², so
            without a lower bound a shrinking σ can lead to divergence.
        learn_std: False fixes σ at `init_std` in both loops; φ then has no log_std.
        context_size: size of a context vector, an additional network input that is part of φ and initially 0; 0: none.
        channels: of the convolutions that read pictures, see `metarl_jax.policies.encoder`.

    The bound is applied in `apply`, so it holds for both sampling and losses.

    Raises:
        ValueError: a size is not positive, the activation is unknown, or not 0 < min_std < init_std.
    """
    init_std, learn_std = checks.positive("init_std", init_std), checks.boolean("learn_std", learn_std)
    if min_std is not None and not 0 < checks.finite("min_std", min_std) < init_std:
        raise ValueError(f"min_std is {min_std!r}; it must lie between 0 and init_std = {init_std!r}, both excluded")
    init_network, apply_network, labels = _body(
        observation_size, action_size, hidden, activation, context_size, channels
    )
    floor = None if min_std is None else math.log(min_std)
    start = math.log(init_std) if floor is None else floor + _softplus_inverse(math.log(init_std) - floor)

    def init(key):
        # A fixed σ must not be in φ, because evolution strategies change all of φ.
        return init_network(key) | ({"log_std": jnp.full(action_size, start, float)} if learn_std else {})

    def apply(params, observation):
        log_std = params["log_std"] if learn_std else jnp.full(action_size, start, float)
        if floor is not None:
            log_std = floor + jax.nn.softplus(log_std - floor)
        return DiagonalGaussian(apply_network(params, observation), log_std)

    return Policy(init, apply, labels)


def squashed_mlp(observation_size: PyTree, action_size: int, **options: Any) -> Policy:
    """π(a|s) = tanh(u) with u as in `gaussian_mlp`, which has the options: actions in (−1, 1).

    `init_std` and `min_std` are those of u. From a standard deviation of 0.7 on, the density of a component with mean 0
    has two modes, near the ends.

    Raises:
        ValueError: as in `gaussian_mlp`.
    """
    policy = gaussian_mlp(observation_size, action_size, **options)

    def apply(params, observation):
        gaussian = policy.apply(params, observation)
        return SquashedGaussian(gaussian.mean, gaussian.log_std)

    return policy._replace(apply=apply)


def beta_mlp(
    observation_size: PyTree,
    action_size: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    context_size: int = 0,
    channels: Sequence[int] | None = None,
) -> Policy:
    """π(a|s) = Beta(1 + softplus(x), 1 + softplus(y)) on (−1, 1) with (x, y) = MLP(s), each [A].

    Both parameters depend on the state, so no parameter is labelled as a standard deviation. For x = y = 0 that of a
    component is 0.48. Chou, Maturana, Scherer (2017, ICML).

    Args:
        observation_size: as in `gaussian_mlp`.
        action_size: components of one action.
        hidden: sizes of the hidden layers.
        activation: "tanh" or "relu".
        context_size: as in `gaussian_mlp`.
        channels: as in `gaussian_mlp`.

    Raises:
        ValueError: a size is not positive or the activation is unknown.
    """
    init, apply_network, labels = _body(observation_size, 2 * action_size, hidden, activation, context_size, channels)

    def apply(params, observation):
        return Beta(*jnp.split(1 + jax.nn.softplus(apply_network(params, observation)), 2, axis=-1))

    return Policy(init, apply, labels)


def categorical_mlp(
    observation_size: PyTree,
    num_actions: int,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    context_size: int = 0,
    channels: Sequence[int] | None = None,
) -> Policy:
    """π(a|s) = softmax(MLP(s)) over `num_actions` discrete actions; other options as in `gaussian_mlp`.

    Raises:
        ValueError: a size is not positive or the activation is unknown.
    """
    init, apply, labels = _body(observation_size, num_actions, hidden, activation, context_size, channels)
    return Policy(init, lambda params, observation: Categorical(apply(params, observation)), labels)


def multi_categorical_mlp(
    observation_size: PyTree,
    sizes: Sequence[int],
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    context_size: int = 0,
    channels: Sequence[int] | None = None,
) -> Policy:
    """n independent choices among ``sizes[i]`` actions each, all by one MLP(s); else as `categorical_mlp`."""
    sizes = tuple(checks.integer("an entry of sizes", size) for size in sizes)
    init, apply, labels = _body(observation_size, sum(sizes), hidden, activation, context_size, channels)
    return Policy(init, lambda params, observation: MultiCategorical(apply(params, observation), sizes), labels)


DISTRIBUTIONS = {"gaussian": gaussian_mlp, "squashed": squashed_mlp, "beta": beta_mlp}
"""The policies for real actions, by the name of their distribution."""


def mlp(
    env: TaskEnv,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    context_size: int = 0,
    channels: Sequence[int] | None = None,
    distribution: str | None = None,
    **gaussian_options,
) -> Policy:
    """The default policy of an environment: categorical for discrete actions, else Gaussian or what is asked for.

    For several discrete choices it is the product of categoricals, `metarl_jax.policies.MultiCategorical`. The arrays
    of an observation enter one network, pictures through convolutions, other arrays flattened and as real numbers.

    Args:
        env: determines the input and output sizes.
        hidden: sizes of the hidden layers.
        activation: "tanh" or "relu".
        context_size: size of a context vector in φ, an additional network input, as adapted by CAVIA.
        channels: channels of the convolutions that read a picture, one layer each; empty: it is flattened; None means
            (16, 32). Pictures are the arrays [height, width, channels] of an observation, see
            `metarl_jax.policies.encoder`.
        distribution: of real actions: "gaussian", unbounded; "squashed", its image under tanh, or "beta", both in
            (−1, 1); None means "gaussian". See `gaussian_mlp`, `squashed_mlp` and `beta_mlp`.
        **gaussian_options: `init_std`, `min_std`, `learn_std` of `gaussian_mlp`; not with "beta".

    Raises:
        ValueError: an option is out of range, or applies only to another distribution or only to real actions.

    Example:
        >>> policy = mrl.policies.mlp(mrl.envs.make("point-nav"), hidden=(32,), min_std=0.1)
        >>> params = policy.init(jax.random.key(0))
        >>> distribution = policy.apply(params, jnp.zeros(2))
        >>> distribution.sample(jax.random.key(1)).shape
        (2,)
    """
    sizes: Any = shapes_of(env), env.action_size
    layers = {"hidden": hidden, "activation": activation, "context_size": context_size, "channels": channels}
    if env.discrete:
        asked = gaussian_options if distribution is None else {"distribution", *gaussian_options}
        _refuse(asked, f"{env.name!r} has discrete actions, so its policy is categorical and takes")
        return (multi_categorical_mlp if isinstance(env.action_size, tuple) else categorical_mlp)(*sizes, **layers)
    name = checks.one_of("distribution", "gaussian" if distribution is None else distribution, DISTRIBUTIONS)
    if name == "beta":
        _refuse(gaussian_options, "distribution is 'beta', which has no standard deviation of its own and takes")
    return DISTRIBUTIONS[name](*sizes, **layers, **gaussian_options)


def _refuse(options: Iterable[str], why: str) -> None:
    if options:
        raise ValueError(f"{why} no {' and no '.join(sorted(options))}; leave that out")
