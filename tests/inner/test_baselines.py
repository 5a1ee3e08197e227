"""The linear-feature baseline against least squares in float64, and where the normal equations break."""

import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.inner import linear_feature, reward_to_go
from tests.data import random_trajectory


def features(observation, time):
    t = time[..., None] / 100
    return np.concatenate([observation, observation**2, t, t**2, t**3, np.ones_like(t)], axis=-1)


def uncut(trajectory):
    """The same data as if no episode had been truncated."""
    return trajectory.replace(truncated=jnp.zeros_like(trajectory.truncated))


def least_squares(trajectory, targets):
    """Fit on the valid steps of uncut episodes by numpy's SVD in float64, without a ridge."""
    valid = np.asarray(trajectory.valid)
    time = np.broadcast_to(np.arange(valid.shape[1], dtype=float), valid.shape)
    x = features(np.asarray(trajectory.observation, np.float64), time)
    weights = np.linalg.lstsq(x[valid], np.asarray(targets, np.float64)[valid], rcond=1e-9)[0]
    following = features(np.asarray(trajectory.next_observation, np.float64), time + 1)
    return np.where(valid, x @ weights, 0), np.where(valid, following @ weights, 0)


def test_equals_least_squares():
    trajectory = uncut(random_trajectory(0, episodes=30, horizon=20))
    values, following = linear_feature(1e-7)(trajectory, 0.95)
    expected, expected_following = least_squares(trajectory, reward_to_go(trajectory, 0.95))
    np.testing.assert_allclose(values, expected, atol=2e-3)
    np.testing.assert_allclose(following, expected_following, atol=5e-3)


def test_truncated_returns_are_not_taken_for_whole_ones():
    """Rewards that make a linear V exact: whoever reads the cut episodes' partial returns as whole ones misses it."""
    discount = 0.9
    trajectory = random_trajectory(0, episodes=30, horizon=20)
    weights = np.random.default_rng(1).normal(size=3)

    def value(observation):
        return observation @ weights + 2.0

    valid, truncated = np.asarray(trajectory.valid), np.asarray(trajectory.truncated & trajectory.valid)
    last = valid & ~np.pad(valid[:, 1:], ((0, 0), (0, 1)))
    following = np.where(last & ~truncated, 0.0, value(np.asarray(trajectory.next_observation)))
    reward = np.where(valid, value(np.asarray(trajectory.observation)) - discount * following, 0)
    assert truncated.any()
    values, next_values = linear_feature(1e-7)(trajectory.replace(reward=jnp.asarray(reward, jnp.float32)), discount)
    np.testing.assert_allclose(np.asarray(values)[valid], value(np.asarray(trajectory.observation))[valid], atol=2e-2)
    at_cut = value(np.asarray(trajectory.next_observation))[truncated]
    np.testing.assert_allclose(np.asarray(next_values)[truncated], at_cut, atol=5e-2)


def test_collinear_and_badly_scaled_features_in_float32():
    """cos² + sin² = 1 is collinear with the intercept, a constant feature is too, and scales differ by 1e4."""
    trajectory = uncut(random_trajectory(1, episodes=20, horizon=50))
    angle = np.random.default_rng(2).uniform(-3, 3, (20, 50))
    observation = np.stack([np.cos(angle), np.sin(angle), np.full_like(angle, 5.0), 1e4 + 1e2 * angle], -1)
    observation = jnp.asarray(observation, jnp.float32)
    reward = jnp.asarray(3.0 + 2.0 * np.cos(angle) - np.sin(angle), jnp.float32)
    trajectory = trajectory.replace(observation=observation, next_observation=observation, reward=reward)
    values, following = linear_feature()(trajectory, 0.0)  # without discounted rest, the target is the reward
    mask = np.asarray(trajectory.valid)
    assert np.isfinite(following).all()
    np.testing.assert_allclose(np.asarray(values)[mask], np.asarray(reward)[mask], atol=2e-2)


def test_fewer_steps_than_features_is_finite():
    trajectory = random_trajectory(3, episodes=3, horizon=1, observation_size=17)
    for values in linear_feature()(trajectory, 0.99):
        assert np.isfinite(values).all()


def test_padding_is_not_fitted():
    trajectory = random_trajectory(4)
    mask = trajectory.valid
    poisoned = trajectory.replace(
        observation=jnp.where(mask[..., None], trajectory.observation, jnp.nan),
        next_observation=jnp.where(mask[..., None], trajectory.next_observation, jnp.inf),
        reward=jnp.where(mask, trajectory.reward, 99.0),
    )
    expected = linear_feature()(trajectory, 0.9)
    for got, wanted in zip(linear_feature()(poisoned, 0.9), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert (np.asarray(wanted)[~np.asarray(mask)] == 0).all()


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_ridge_out_of_range(ridge):
    with pytest.raises(ValueError, match="ridge is"):
        linear_feature(ridge)
