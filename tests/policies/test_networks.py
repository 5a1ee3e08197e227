"""Networks: numpy forward pass, the bounds of σ, frozen σ, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import policies
from tests import toys

KEY = jax.random.key(0)


@pytest.mark.parametrize(("activation", "function"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))])
def test_forward_pass_against_numpy(activation, function):
    policy = policies.gaussian_mlp(3, 2, hidden=(5, 4), activation=activation)
    params = policy.init(KEY)
    hidden = observation = np.array([0.3, -1.0, 2.0])
    layers = [params["network"][f"Dense_{i}"] for i in range(3)]
    for i, layer in enumerate(layers):
        hidden = hidden @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        hidden = function(hidden) if i < 2 else hidden
    np.testing.assert_allclose(policy.apply(params, jnp.asarray(observation)).mean, hidden, rtol=1e-5)


@pytest.mark.parametrize("min_std", [None, 0.1])
def test_initial_std(min_std):
    policy = policies.gaussian_mlp(3, 2, init_std=0.5, min_std=min_std)
    np.testing.assert_allclose(policy.apply(policy.init(KEY), jnp.zeros(3)).log_std, np.log(0.5), rtol=1e-5)


def test_the_floor_under_std_holds_and_keeps_a_gradient():
    policy = policies.gaussian_mlp(3, 2, min_std=0.1)
    params = policy.init(KEY)

    def log_std(raw):
        return policy.apply({**params, "log_std": jnp.full(2, raw)}, jnp.zeros(3)).log_std[0]

    assert jnp.exp(log_std(-5.0)) > 0.1
    assert jax.grad(log_std)(-5.0) > 0.01, "a std near its floor must be able to grow again"
    np.testing.assert_allclose(log_std(5.0), 5.0, rtol=1e-3)


def test_a_std_that_is_not_learned_is_constant_and_no_parameter():
    frozen, free = (policies.gaussian_mlp(3, 2, init_std=0.5, min_std=0.1, learn_std=learn) for learn in (False, True))
    params = free.init(KEY)
    assert frozen.init(KEY).keys() == params.keys() - {"log_std"}
    assert "std" not in jax.tree.leaves(frozen.labels(frozen.init(KEY)))
    observation = jnp.ones(3)
    fixed, learned = frozen.apply(frozen.init(KEY), observation), free.apply(params, observation)
    np.testing.assert_allclose(fixed.log_std, np.log(0.5) * np.ones(2), rtol=1e-5)
    np.testing.assert_array_equal(fixed.log_std, learned.log_std)
    np.testing.assert_array_equal(fixed.mean, learned.mean)


def test_labels_name_every_parameter():
    policy = policies.gaussian_mlp(3, 2, hidden=(4, 4), context_size=5)
    layer = {"kernel": "body", "bias": "body"}
    assert policy.labels(policy.init(KEY)) == {
        "network": {"Dense_0": layer, "Dense_1": layer, "Dense_2": {"kernel": "head", "bias": "head"}},
        "log_std": "std",
        "context": "context",
    }


def test_the_context_is_an_input_beside_the_observation():
    """A context of zeros leaves the network's answer to the observation; another one shifts the first layer."""
    policy = policies.categorical_mlp(3, 4, hidden=(6,), context_size=2)
    params = policy.init(KEY)
    kernel = params["network"]["Dense_0"]["kernel"]
    assert kernel.shape == (5, 6)
    observation, context = jnp.array([0.3, -1.0, 0.5]), jnp.array([0.7, -0.2])
    hidden = jnp.tanh(jnp.concatenate([observation, context]) @ kernel)
    expected = hidden @ params["network"]["Dense_1"]["kernel"]
    found = policy.apply(params | {"context": context}, observation).logits
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(found, policy.apply(params, observation).logits)


def test_the_default_policy_follows_the_action_space():
    discrete, continuous = toys.bandit(), toys.walk()
    logits = policies.mlp(discrete).apply(policies.mlp(discrete).init(KEY), jnp.zeros(1)).logits
    assert logits.shape == (3,)
    assert policies.mlp(continuous).apply(policies.mlp(continuous).init(KEY), jnp.zeros(1)).mean.shape == (1,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (0,)}, "hidden is 0"),
        ({"hidden": (2.5,)}, "hidden is 2.5"),
        ({"hidden": 64}, "hidden is 64"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"init_std": 0.0}, "init_std is 0"),
        ({"init_std": float("inf")}, "init_std is inf"),
        ({"min_std": 1.0}, "min_std is 1"),
        ({"min_std": -1.0}, "min_std is -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        policies.gaussian_mlp(3, 2, **options)


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        (toys.bandit, {"init_std": 0.5}, "discrete actions, so its policy is categorical and takes no init_std; leave"),
        (toys.bandit, {"distribution": "gaussian"}, "takes no distribution; leave that out"),
        (toys.bandit, {"distribution": "beta", "min_std": 0.1}, "takes no distribution and no min_std"),
        (toys.walk, {"distribution": "squashd"}, "unknown distribution 'squashd': did you mean 'squashed'"),
        (toys.walk, {"distribution": "normal"}, "choose from gaussian, squashed, beta"),
        (toys.walk, {"distribution": 3}, "unknown distribution 3"),
        (toys.walk, {"distribution": policies.beta_mlp}, "unknown distribution <function"),
        (toys.walk, {"distribution": "beta", "min_std": 0.1, "init_std": 1.0}, "'beta', .* no init_std and no min_std"),
        (toys.walk, {"distribution": "squashed", "min_std": 2.0}, "min_std is 2.0"),
    ],
)
def test_a_distribution_that_does_not_fit_is_refused(env, options, message):
    for make in (policies.mlp, policies.gru, lambda env, **options: policies.make_policy(env, options)):
        with pytest.raises(ValueError, match=message) as refusal:
            make(env(), **options)
        assert "\n" not in str(refusal.value)


def test_the_default_policy_has_the_distribution_that_is_asked_for():
    env, observation = toys.walk(), jnp.array([0.7])
    gaussian, squashed, beta = (
        policies.mlp(env, hidden=(5,), distribution=name) for name in policies.networks.DISTRIBUTIONS
    )
    params = gaussian.init(KEY)
    one, other = gaussian.apply(params, observation), squashed.apply(params, observation)
    assert isinstance(other, policies.SquashedGaussian)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.log_std, other.log_std)
    assert squashed.labels(params) == gaussian.labels(params)
    params = beta.init(KEY)
    distribution = beta.apply(params, observation)
    network = policies.categorical_mlp(1, 2, hidden=(5,))
    x, y = network.apply(params, observation).logits
    np.testing.assert_allclose(distribution.alpha, 1 + np.log1p(np.exp([x])), rtol=1e-5)
    np.testing.assert_allclose(distribution.beta, 1 + np.log1p(np.exp([y])), rtol=1e-5)
    assert set(jax.tree.leaves(beta.labels(params))) == {"body", "head"}
    zero = beta.apply(jax.tree.map(jnp.zeros_like, params), observation)
    scale = 1 + np.log(2)
    np.testing.assert_allclose(np.sqrt(1 / (2 * scale + 1)), 0.48, atol=0.003)  # of 2x − 1, x ~ Beta(scale, scale)
    np.testing.assert_allclose(zero.alpha, scale, rtol=1e-6)
    np.testing.assert_array_equal(zero.mode(), [0.0])


def test_a_memory_acts_by_the_distribution_too():
    memory = policies.gru(toys.walk(), memory_size=4, distribution="beta")
    params = memory.init(KEY)
    distribution, _ = memory.act(params, memory.start(params), jnp.zeros(1))
    assert isinstance(distribution, policies.Beta)


@pytest.mark.parametrize("distribution", ["gaussian", "squashed", "beta"])
def test_a_network_takes_leading_axes_too(distribution):
    env = dataclasses.replace(toys.walk(), observation_size=3, action_size=2)
    policy = policies.mlp(env, hidden=(4,), distribution=distribution)
    params, observations = policy.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (5, 3))
    alone = jnp.stack([policy.apply(params, observation).mode() for observation in observations])
    np.testing.assert_allclose(policy.apply(params, observations).mode(), alone, rtol=1e-6)
