"""Returns, GAE and normalisation against a second implementation in numpy, episode by episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import inner
from metarl_jax.inner import advantages
from tests.data import random_trajectory

DISCOUNT, LAMBDA = 0.9, 0.7


def given_baseline(values, next_values):
    return lambda trajectory, discount: (jnp.asarray(values), jnp.asarray(next_values))


def numpy_gae(trajectory, values, next_values, discount, lambda_):
    """The definition, over each episode's own steps: a list that ends where the episode ends."""
    episodes, horizon = trajectory.valid.shape
    advantage = np.zeros((episodes, horizon))
    for n in range(episodes):
        length = int(np.asarray(trajectory.valid[n]).sum())
        last = length - 1
        # 0 where the episode terminated, and at the horizon.
        bootstrap = next_values[n, last] if trajectory.truncated[n, last] else 0.0
        following = [*values[n, 1:length], bootstrap]
        delta = [float(trajectory.reward[n, t]) + discount * following[t] - values[n, t] for t in range(length)]
        for t in range(length):
            advantage[n, t] = sum((discount * lambda_) ** (k - t) * delta[k] for k in range(t, length))
    return advantage


@pytest.fixture(scope="module")
def trajectory():
    return random_trajectory(seed=0, episodes=12, horizon=9)


def test_the_data_hold_all_kinds_of_endings(trajectory):
    lengths = np.asarray(trajectory.valid.sum(1))
    assert trajectory.truncated.any()
    assert (trajectory.discount == 0).any()
    assert (lengths == 9).any()
    assert (lengths == 1).any()


def test_reward_to_go(trajectory):
    reward, valid = np.asarray(trajectory.reward, np.float64), np.asarray(trajectory.valid)
    expected = np.zeros_like(reward)
    for n, length in enumerate(valid.sum(1)):
        for t in range(length):
            expected[n, t] = sum(DISCOUNT ** (k - t) * reward[n, k] for k in range(t, length))
    np.testing.assert_allclose(inner.returns(DISCOUNT)(trajectory), expected, atol=1e-5)


def test_gae(trajectory):
    random = np.random.default_rng(1)
    values, next_values = random.normal(size=(12, 9)), random.normal(size=(12, 9))
    # V(s_{t+1}) of step t and V(s_t) of the next are one value, but where the episode ends.
    next_values[:, :-1] = np.where(trajectory.valid[:, 1:], values[:, 1:], next_values[:, :-1])
    estimate = inner.gae(DISCOUNT, LAMBDA, given_baseline(values, next_values), normalized=False)
    expected = numpy_gae(trajectory, values, next_values, DISCOUNT, LAMBDA)
    np.testing.assert_allclose(estimate(trajectory), expected, atol=1e-5)


def test_lambda_one_without_baseline_is_the_return(trajectory):
    estimate = inner.gae(DISCOUNT, 1.0, inner.zero(), normalized=False)
    np.testing.assert_allclose(estimate(trajectory), inner.returns(DISCOUNT)(trajectory), atol=1e-5)


def test_truncation_is_not_termination(trajectory):
    """At the cut the advantage bootstraps the final observation's value; at a terminal state it does not."""
    cut_here = np.asarray(trajectory.truncated & trajectory.valid)
    estimate = inner.gae(1.0, 1.0, given_baseline(np.zeros((12, 9)), 5.0 * cut_here), normalized=False)
    surplus = np.asarray(estimate(trajectory) - inner.returns(1.0)(trajectory))
    cut = np.asarray(trajectory.truncated & trajectory.valid).any(1)
    first = surplus[:, 0]
    np.testing.assert_allclose(first, np.where(cut, 5.0, 0.0), atol=1e-5)


def test_normalize_divides_by_the_standard_deviation_of_the_valid_steps(trajectory):
    advantage = jnp.asarray(np.random.default_rng(2).normal(3.0, 7.0, size=(12, 9)), jnp.float32)
    valid = np.asarray(trajectory.valid)
    result = np.asarray(inner.normalize(advantage, trajectory.valid))
    chosen = np.asarray(advantage)[valid]
    np.testing.assert_allclose(result[valid], (chosen - chosen.mean()) / chosen.std(), atol=1e-5)
    assert (result[~valid] == 0).all()


@pytest.fixture(scope="module")
def given_values():
    random = np.random.default_rng(3)
    return tuple(jnp.asarray(random.normal(size=(12, 9)), jnp.float32) for _ in range(2))


def test_the_scale_is_what_normalised_advantages_were_divided_by(trajectory, given_values):
    valid = np.asarray(trajectory.valid)
    raw, one = advantages.estimate(trajectory, given_values, DISCOUNT, LAMBDA, normalized=False)
    assert one == 1
    np.testing.assert_array_equal(raw, advantages.gae_of_values(trajectory, *given_values, DISCOUNT, LAMBDA))
    advantage, scale = advantages.estimate(trajectory, given_values, DISCOUNT, LAMBDA, normalized=True)
    chosen = np.asarray(raw)[valid]
    np.testing.assert_allclose(scale, chosen.std(), rtol=1e-3)  # but for the floor under it
    np.testing.assert_allclose(np.asarray(advantage * scale)[valid], chosen - chosen.mean(), atol=1e-5)
    np.testing.assert_array_equal(advantage, inner.gae(DISCOUNT, LAMBDA, given_baseline(*given_values))(trajectory))


@pytest.mark.parametrize("noise", [0.0, 2.5])
def test_scale_of(trajectory, given_values, noise):
    chosen = np.asarray(given_values[0])[np.asarray(trajectory.valid)]
    scale = advantages.scale_of(given_values[0], trajectory.valid, noise)
    np.testing.assert_allclose(scale, chosen.std() + noise, rtol=1e-5)


@pytest.mark.parametrize("normalized", [False, True])
def test_estimates_are_data_and_their_formula_is_not(trajectory, given_values, normalized):
    def of_estimate(values):
        advantage, scale = advantages.estimate(trajectory, values, DISCOUNT, LAMBDA, normalized)
        return (advantage**2).sum() + scale

    def of_formula(values):
        return advantages.gae_of_values(trajectory, *values, 1.0, 1.0).sum()

    assert all((gradient == 0).all() for gradient in jax.grad(of_estimate)(given_values))
    # With γ = λ = 1 every V(s_t) is subtracted once; later ones cancel, up to V(s_L) of a cut episode.
    now, following = jax.grad(of_formula)(given_values)
    valid, lengths = np.asarray(trajectory.valid), np.asarray(trajectory.valid.sum(1, keepdims=True))
    np.testing.assert_allclose(now.sum(1) + following.sum(1), (valid * np.where(of_cut(trajectory), 0, -1)).sum(1))
    cut_last = of_cut(trajectory) & (np.arange(9) == lengths - 1)
    np.testing.assert_allclose(following[cut_last], np.broadcast_to(lengths, (12, 9))[cut_last])


def of_cut(trajectory):
    return np.asarray((trajectory.truncated & trajectory.valid).any(1, keepdims=True))


@pytest.mark.parametrize("reward", [0.1, -0.3, 1000.1])
def test_rounding_is_not_blown_up_to_unit_advantages(trajectory, reward):
    """Where nothing is left to explain, rounding is, and dividing it by its own deviation would make it a signal."""
    constant = trajectory.replace(reward=jnp.where(trajectory.valid, reward, 0.0))
    assert np.abs(inner.gae(0.0, baseline=inner.zero())(constant)).max() < 0.01
    # Fixed episodes of constant reward: the baseline explains them but for its ridge, some 1e-5 of the return.
    full = trajectory.replace(
        reward=jnp.full((12, 9), reward),
        valid=jnp.ones((12, 9), bool),
        truncated=jnp.zeros((12, 9), bool),
        discount=jnp.ones((12, 9)),
    )
    assert np.asarray(inner.gae(0.99)(full)).std() < 0.5


def test_padding_does_not_matter(trajectory):
    """Garbage on padded steps, NaN included, changes no advantage."""
    mask = np.asarray(trajectory.valid)
    poison = trajectory.replace(
        reward=jnp.where(mask, trajectory.reward, jnp.nan),
        observation=jnp.where(mask[..., None], trajectory.observation, jnp.nan),
    )
    for estimate in (inner.returns(DISCOUNT), inner.gae(DISCOUNT, LAMBDA)):
        np.testing.assert_array_equal(estimate(poison), estimate(trajectory))


@pytest.mark.parametrize("build", [inner.returns, inner.gae])
@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_discount_out_of_range(build, discount):
    with pytest.raises(ValueError, match=r"discount is .*\[0, 1\]"):
        build(discount)


def test_lambda_out_of_range():
    with pytest.raises(ValueError, match="lambda_ is 2"):
        inner.gae(lambda_=2.0)
