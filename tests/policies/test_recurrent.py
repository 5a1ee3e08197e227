"""Policies with a memory: the cell against numpy, the hypernetwork's start, refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.policies.networks import orthogonal
from metarl_jax.types import Percept
from tests import rows, toys


def percept(seed, env):
    random = np.random.default_rng(seed)
    observation = jnp.asarray(random.normal(size=env.observation_size), float)
    action = jnp.asarray(random.normal(size=env.action_size), float)
    return Percept(
        observation=observation, action=action, reward=jnp.asarray(random.normal()), start=jnp.array(seed == 0)
    )


def test_the_cell_is_a_gated_recurrent_unit():
    """m' = (1 − z) ∘ tanh(W x + b + r ∘ (U m + c)) + z ∘ m, in numpy."""
    env = toys.walk()
    policy = mrl.policies.gru(env, memory_size=3)
    with jax.enable_x64():
        params = policy.init(jax.random.key(0))
        memory = policy.start(params)
        np.testing.assert_array_equal(memory, 0)
        expected = np.zeros(3)
        weights = jax.tree.map(np.asarray, params["memory"])

        def sigmoid(x):
            return 1 / (1 + np.exp(-x))

        for step in range(3):
            seen = percept(step, env)
            memory = policy.remember(params, memory, seen)
            x = np.concatenate([seen.observation, seen.action, [seen.reward, seen.start]])
            gates = {gate: x @ weights[f"i{gate}"]["kernel"] + weights[f"i{gate}"]["bias"] for gate in ("r", "z", "n")}
            r = sigmoid(gates["r"] + expected @ weights["hr"]["kernel"])
            z = sigmoid(gates["z"] + expected @ weights["hz"]["kernel"])
            n = np.tanh(gates["n"] + r * (expected @ weights["hn"]["kernel"] + weights["hn"]["bias"]))
            expected = (1 - z) * n + z * expected
            np.testing.assert_allclose(memory, expected, rtol=1e-10)


def test_an_encoder_reads_whole_transitions():
    """x_t = relu(W₂ relu(W₁ [s_{t−1}, s_t, a_{t−1}, r_{t−1}, start_t])), then the unit that has no encoder."""
    env = toys.walk()
    with jax.enable_x64():
        policy = mrl.policies.gru(env, memory_size=3, encoder=(5, 4))
        params = policy.init(jax.random.key(0))
        memory = policy.start(params)
        unit, last, weights = np.zeros(3), np.zeros(env.observation_size), jax.tree.map(np.asarray, params["encoder"])
        for step in range(3):
            seen = percept(step, env)
            memory = policy.remember(params, memory, seen)
            x = np.concatenate([last, seen.observation, seen.action, [seen.reward, seen.start]])
            for layer in ("layers_0", "layers_2"):
                x = np.maximum(x @ weights[layer]["kernel"] + weights[layer]["bias"], 0)
            unit = nn.GRUCell(3, param_dtype=float).apply({"params": params["memory"]}, unit, x)[0]
            last = seen.observation
            np.testing.assert_allclose(memory, np.concatenate([unit, last]), rtol=1e-10)
            # What is done depends on the unit alone.
            other = jnp.concatenate([memory[:3], -memory[3:]])
            for of_one, of_other in zip(
                jax.tree.leaves(policy.act(params, memory, last)),
                jax.tree.leaves(policy.act(params, other, last)),
                strict=True,
            ):
                np.testing.assert_array_equal(of_one, of_other)


def test_a_gate_scales_what_is_read():
    """π and V of m ⊙ 2σ(W s + b) are those of the policy without a gate at that memory; the unit is not touched."""
    env = toys.walk()
    with jax.enable_x64():
        gated, plain = (mrl.policies.gru(env, memory_size=3, hidden=(4,), gated=gated) for gated in (True, False))
        params = gated.init(jax.random.key(0))
        jax.tree.map(
            np.testing.assert_array_equal, {**params, "gate": None}, {**plain.init(jax.random.key(0)), "gate": None}
        )
        weights = jax.tree.map(np.asarray, params["gate"])
        for seed in range(3):
            memory = jax.random.normal(jax.random.key(seed), (3,))
            seen = percept(seed, env)
            np.testing.assert_array_equal(gated.remember(params, memory, seen), plain.remember(params, memory, seen))
            gate = 2 / (1 + np.exp(-(seen.observation @ weights["kernel"] + weights["bias"])))
            for of_gated, of_plain in zip(
                jax.tree.leaves(gated.act(params, memory, seen.observation)),
                jax.tree.leaves(plain.act(params, memory * gate, seen.observation)),
                strict=True,
            ):
                np.testing.assert_allclose(of_gated, of_plain, rtol=1e-10)


@pytest.mark.parametrize(
    "options",
    [{"encoder": (6,), "gated": True}, rows.thorough({"encoder": (6,)}), rows.thorough({"gated": True})],
)
def test_a_trial_is_replayed_to_its_own_probabilities(options):
    """The ratio of the first step on a batch is 1: collection and replay pass through the same encoder and gate."""
    algorithm = mrl.algorithms.rl2(
        toys.walk(), policy=options, memory_size=3, tasks=4, episodes=2, epochs=1, minibatches=1
    )
    _, metrics = jax.jit(algorithm.update)(jax.random.key(1), jax.jit(algorithm.init)(jax.random.key(0)))
    np.testing.assert_allclose([metrics["ratio_min"], metrics["ratio_max"]], 1, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_recurrent_weights_start_orthogonal(size):
    keys = jax.random.split(jax.random.key(0), 50)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: orthogonal(key, (size, size))))(keys))
    products = np.einsum("kij,kil->kjl", drawn, drawn)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(size), products.shape), atol=1e-4)
    assert abs(drawn.mean()) < 5 / np.sqrt(drawn.size), "no direction is preferred"


def test_a_batch_of_memories_can_be_drawn():
    """Batched QR decompositions beside each other made this wait for ever on two cores."""
    policy = mrl.policies.gru(toys.walk(), memory_size=32)
    params = jax.jit(jax.vmap(policy.init))(jax.random.split(jax.random.key(0), 200))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_hypernetwork_starts_from_the_base_policy_whatever_it_remembers():
    env = toys.walk()
    base = toys.small_policy(env)
    policy = mrl.policies.hypernetwork(env, base, memory_size=4)
    params = policy.init(jax.random.key(3))
    for memory in (jnp.zeros(4), jnp.array([0.3, -1.0, 0.5, 0.9])):
        phi = policy.params(params, memory)
        assert jax.tree.map(jnp.shape, phi) == jax.tree.map(jnp.shape, base.init(jax.random.key(0)))
        jax.tree.map(np.testing.assert_array_equal, phi, params["emit"]["bias"])
        distribution, _ = policy.act(params, memory, jnp.ones(1))
        np.testing.assert_allclose(distribution.mean, base.apply(phi, jnp.ones(1)).mean)


def test_a_hypernetwork_emits_weights_linear_in_the_memory():
    env = toys.walk()
    policy = mrl.policies.hypernetwork(env, toys.small_policy(env), memory_size=2)
    params = policy.init(jax.random.key(3))
    noise = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params["emit"]["kernel"]
    )
    params = params | {"emit": params["emit"] | {"kernel": noise}}
    one, two, sum_ = (policy.params(params, jnp.array(m)) for m in ([1.0, 0.0], [0.0, 2.0], [1.0, 2.0]))
    bias = params["emit"]["bias"]
    jax.tree.map(
        lambda a, b, c, start: np.testing.assert_allclose(c, a + b - start, rtol=1e-5, atol=1e-6), one, two, sum_, bias
    )
    jax.tree.map(
        lambda a, w, start: np.testing.assert_allclose(a - start, w[0], rtol=1e-4, atol=1e-6), one, noise, bias
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_size": 0}, "memory_size is 0"),
        ({"memory_size": 2.5}, "memory_size is 2.5"),
        ({"hidden": (0,)}, "a layer size in hidden is 0"),
        ({"activation": "sine"}, "unknown activation 'sine'"),
        ({"init_std": -1.0}, "init_std is -1"),
        ({"encoder": (0,)}, "a layer size in encoder is 0"),
        ({"encoder": 8}, "encoder is 8; it must be a sequence of layer sizes"),
        ({"gated": "yes"}, "gated is 'yes'"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        mrl.policies.gru(toys.walk(), **options)


def test_discrete_actions_take_no_std():
    with pytest.raises(ValueError, match="takes no init_std"):
        mrl.policies.gru(toys.bandit(), init_std=1.0)
