"""Distributions against scipy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from metarl_jax.policies import Categorical, DiagonalGaussian

MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.0, 2.5])
OTHER_MEAN, OTHER_STD = np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.5, 2.0])
LOGITS = np.array([0.2, -1.0, 3.0, 0.0])


def gaussian(mean=MEAN, std=STD):
    return DiagonalGaussian(jnp.asarray(mean, jnp.float32), jnp.log(jnp.asarray(std, jnp.float32)))


def test_gaussian_log_prob_is_the_sum_over_components():
    action = np.array([0.1, 0.2, 0.3])
    expected = scipy.stats.norm(MEAN, STD).logpdf(action).sum()
    np.testing.assert_allclose(gaussian().log_prob(jnp.asarray(action)), expected, rtol=1e-5)


def test_gaussian_entropy_and_kl():
    np.testing.assert_allclose(gaussian().entropy(), scipy.stats.norm(MEAN, STD).entropy().sum(), rtol=1e-5)
    expected = np.log(OTHER_STD / STD) + (STD**2 + (MEAN - OTHER_MEAN) ** 2) / (2 * OTHER_STD**2) - 0.5
    np.testing.assert_allclose(gaussian().kl(gaussian(OTHER_MEAN, OTHER_STD)), expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(gaussian().kl(gaussian()), 0, atol=1e-6)


def test_gaussian_samples_have_its_moments():
    samples = np.asarray(jax.vmap(gaussian().sample)(jax.random.split(jax.random.key(0), 40_000)))
    np.testing.assert_array_less(np.abs(samples.mean(0) - MEAN), 4 * STD / np.sqrt(len(samples)))
    np.testing.assert_allclose(samples.std(0), STD, rtol=4 / np.sqrt(2 * len(samples)))


def test_a_shared_log_std_broadcasts():
    one = DiagonalGaussian(jnp.zeros((4, 3)), jnp.zeros(3))
    assert one.sample(jax.random.key(0)).shape == (4, 3)
    assert one.entropy().shape == one.log_prob(jnp.zeros((4, 3))).shape == one.kl(one).shape == (4,)
    np.testing.assert_allclose(one.entropy(), 3 * 0.5 * np.log(2 * np.pi * np.e), rtol=1e-6)


def test_categorical_against_scipy():
    probabilities = scipy.special.softmax(LOGITS)
    categorical = Categorical(jnp.asarray(LOGITS, jnp.float32))
    np.testing.assert_allclose([categorical.log_prob(a) for a in range(4)], np.log(probabilities), rtol=1e-5)
    np.testing.assert_allclose(categorical.entropy(), scipy.stats.entropy(probabilities), rtol=1e-5)
    other = np.array([1.0, 0.0, 0.0, -1.0])
    expected = scipy.stats.entropy(probabilities, scipy.special.softmax(other))
    np.testing.assert_allclose(categorical.kl(Categorical(jnp.asarray(other, jnp.float32))), expected, rtol=1e-5)


def test_categorical_samples_have_its_probabilities():
    categorical = Categorical(jnp.asarray(LOGITS, jnp.float32))
    samples = np.asarray(jax.vmap(categorical.sample)(jax.random.split(jax.random.key(0), 40_000)))
    probabilities = scipy.special.softmax(LOGITS)
    error = np.sqrt(probabilities * (1 - probabilities) / len(samples))
    np.testing.assert_array_less(np.abs(np.bincount(samples, minlength=4) / len(samples) - probabilities), 4 * error)


def test_a_forbidden_action_leaves_entropy_kl_and_gradients_finite():
    logits = jnp.array([0.5, -jnp.inf, 0.0])
    for function in (lambda x: Categorical(x).entropy(), lambda x: Categorical(x).kl(Categorical(2 * x))):
        value, gradient = jax.value_and_grad(function)(logits)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("distribution", [gaussian(), Categorical(jnp.zeros(3))])
def test_they_are_pytrees(distribution):
    doubled = jax.vmap(lambda _: distribution)(jnp.arange(2))
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(doubled))
