"""Returns, GAE and normalisation against a second implementation in numpy, episode by episode."""

import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import inner
from tests.data import random_trajectory

DISCOUNT, LAMBDA = 0.9, 0.7


def constant_baseline(values, final_values):
    return lambda trajectory, targets: (jnp.asarray(values), jnp.asarray(final_values))


def numpy_gae(trajectory, values, final_values, discount, lambda_):
    """The definition, over each episode's own steps: a list that ends where the episode ends."""
    episodes, horizon = trajectory.valid.shape
    advantage = np.zeros((episodes, horizon))
    for n in range(episodes):
        length = int(np.asarray(trajectory.valid[n]).sum())
        last = length - 1
        # 0 where the episode terminated, and at the horizon.
        bootstrap = final_values[n] if trajectory.truncated[n, last] else 0.0
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
    values, final_values = random.normal(size=(12, 9)), random.normal(size=12)
    estimate = inner.gae(DISCOUNT, LAMBDA, constant_baseline(values, final_values), normalized=False)
    expected = numpy_gae(trajectory, values, final_values, DISCOUNT, LAMBDA)
    np.testing.assert_allclose(estimate(trajectory), expected, atol=1e-5)


def test_lambda_one_without_baseline_is_the_return(trajectory):
    estimate = inner.gae(DISCOUNT, 1.0, inner.zero(), normalized=False)
    np.testing.assert_allclose(estimate(trajectory), inner.returns(DISCOUNT)(trajectory), atol=1e-5)


def test_truncation_is_not_termination(trajectory):
    """At the cut the advantage bootstraps the final observation's value; at a terminal state it does not."""
    values, final_values = np.zeros((12, 9)), np.full(12, 5.0)
    estimate = inner.gae(1.0, 1.0, constant_baseline(values, final_values), normalized=False)
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


def test_constant_advantage_normalizes_to_zero(trajectory):
    assert (inner.normalize(jnp.full((12, 9), 4.0), trajectory.valid) == 0).all()


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
