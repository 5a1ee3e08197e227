"""The linear-feature baseline against least squares in float64, and where the normal equations break."""

import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.inner import linear_feature, reward_to_go
from tests.data import random_trajectory


def features(observation, time):
    t = time[..., None] / 100
    return np.concatenate([observation, observation**2, t, t**2, t**3, np.ones_like(t)], axis=-1)


def least_squares(trajectory, targets):
    """Fit on the valid steps by numpy's SVD in float64, without a ridge."""
    valid = np.asarray(trajectory.valid)
    time = np.broadcast_to(np.arange(valid.shape[1], dtype=float), valid.shape)
    x = features(np.asarray(trajectory.observation, np.float64), time)
    weights = np.linalg.lstsq(x[valid], np.asarray(targets, np.float64)[valid], rcond=1e-9)[0]
    final = features(np.asarray(trajectory.final_observation, np.float64), valid.sum(1).astype(float))
    return np.where(valid, x @ weights, 0), final @ weights


def test_equals_least_squares():
    trajectory = random_trajectory(0, episodes=30, horizon=20)
    targets = reward_to_go(trajectory, 0.95)
    values, final = linear_feature(1e-7)(trajectory, targets)
    expected, expected_final = least_squares(trajectory, targets)
    np.testing.assert_allclose(values, expected, atol=2e-3)
    np.testing.assert_allclose(final, expected_final, atol=5e-3)


def test_collinear_and_badly_scaled_features_in_float32():
    """cos² + sin² = 1 is collinear with the intercept, a constant feature is too, and scales differ by 1e4."""
    trajectory = random_trajectory(1, episodes=20, horizon=50)
    angle = np.random.default_rng(2).uniform(-3, 3, (20, 50))
    observation = np.stack([np.cos(angle), np.sin(angle), np.full_like(angle, 5.0), 1e4 + 1e2 * angle], -1)
    trajectory = trajectory.replace(
        observation=jnp.asarray(observation, jnp.float32), final_observation=jnp.asarray(observation[:, 0], jnp.float32)
    )
    targets = jnp.asarray(3.0 + 2.0 * np.cos(angle) - np.sin(angle), jnp.float32)
    values, final = linear_feature()(trajectory, targets)
    mask = np.asarray(trajectory.valid)
    assert np.isfinite(final).all()
    np.testing.assert_allclose(np.asarray(values)[mask], np.asarray(targets)[mask], atol=2e-2)


def test_fewer_steps_than_features_is_finite():
    trajectory = random_trajectory(3, episodes=3, horizon=1, observation_size=17)
    values, final = linear_feature()(trajectory, trajectory.reward)
    assert np.isfinite(values).all()
    assert np.isfinite(final).all()


def test_padding_is_not_fitted():
    trajectory = random_trajectory(4)
    targets = reward_to_go(trajectory, 1.0)
    mask = trajectory.valid
    values, final = linear_feature()(trajectory, targets)
    poisoned = trajectory.replace(observation=jnp.where(mask[..., None], trajectory.observation, 1e6))
    for got, expected in zip(linear_feature()(poisoned, jnp.where(mask, targets, 99.0)), (values, final), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert (np.asarray(values)[~np.asarray(mask)] == 0).all()


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_ridge_out_of_range(ridge):
    with pytest.raises(ValueError, match="ridge is"):
        linear_feature(ridge)
