"""Baselines against least squares in float64, where normal equations break, and with or without bias by enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import Policy, policies
from metarl_jax.inner import gae, reward_to_go
from metarl_jax.inner.baselines import FittedBaseline, leave_one_out, linear_feature, linear_time, zero
from metarl_jax.types import Trajectory
from tests.data import compiled, random_trajectory
from tests.inner import numpy_fit


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
    values, following = compiled(linear_feature(1e-7))(trajectory, 0.95)
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
    rewarded = trajectory.replace(reward=jnp.asarray(reward, jnp.float32))
    values, next_values = compiled(linear_feature(1e-7))(rewarded, discount)
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
    values, following = compiled(linear_feature())(trajectory, 0.0)  # without discounted rest, the target is the reward
    mask = np.asarray(trajectory.valid)
    assert np.isfinite(following).all()
    np.testing.assert_allclose(np.asarray(values)[mask], np.asarray(reward)[mask], atol=2e-2)


def test_fewer_steps_than_features_is_finite():
    trajectory = random_trajectory(3, episodes=3, horizon=1, observation_size=17)
    for values in compiled(linear_feature())(trajectory, 0.99):
        assert np.isfinite(values).all()


def test_padding_is_not_fitted():
    trajectory = random_trajectory(4)
    mask = trajectory.valid
    poisoned = trajectory.replace(
        observation=jnp.where(mask[..., None], trajectory.observation, jnp.nan),
        next_observation=jnp.where(mask[..., None], trajectory.next_observation, jnp.inf),
        reward=jnp.where(mask, trajectory.reward, 99.0),
    )
    score = compiled(linear_feature())
    for got, wanted in zip(score(poisoned, 0.9), score(trajectory, 0.9), strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert (np.asarray(wanted)[~np.asarray(mask)] == 0).all()


@pytest.mark.parametrize("build", [linear_feature, linear_time])
@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_ridge_out_of_range(build, ridge):
    with pytest.raises(ValueError, match="ridge is"):
        build(ridge)


# --- time only -------------------------------------------------------------------------------------------------------


def test_linear_time_is_exact_where_returns_are_cubic_in_time():
    """G_t = (20 − t)(3 + t/4 − t²/50), 0 at the horizon; cut episodes bootstrap it. Observations are never read."""
    discount, horizon = 0.9, 20
    with jax.enable_x64():
        time = np.arange(horizon + 1.0)
        value = (horizon - time) * (3 + time / 4 - time**2 / 50)
        trajectory = random_trajectory(0, episodes=6, horizon=horizon)
        lengths = np.array([20, 7, 20, 12, 20, 1])
        valid = np.arange(horizon) < lengths[:, None]
        trajectory = trajectory.replace(
            reward=jnp.where(valid, value[:-1] - discount * value[1:], 0),
            valid=jnp.asarray(valid),
            truncated=jnp.asarray((np.arange(horizon) == lengths[:, None] - 1) & (lengths < horizon)[:, None]),
            discount=jnp.ones((6, horizon)),
            observation=jnp.full((6, horizon, 3), jnp.nan),
            next_observation=jnp.full((6, horizon, 3), jnp.nan),
        )
        values, following = compiled(linear_time(1e-13))(trajectory, discount)
    np.testing.assert_allclose(values, np.where(valid, value[:-1], 0), atol=1e-6)
    np.testing.assert_allclose(following, np.where(valid, value[1:], 0), atol=1e-6)


# --- leave one out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "features"), [(linear_feature, numpy_fit.all_features), (linear_time, numpy_fit.time_features)]
)
def test_leave_one_out_is_a_fit_to_the_other_episodes(build, features):
    ridge, discount, episodes = 1e-3, 0.9, 6
    with jax.enable_x64():
        trajectory = random_trajectory(5, episodes)
        got = np.stack(compiled(leave_one_out(build(ridge)))(trajectory, discount), axis=1)  # [N, 2, T]
        for n in range(episodes):
            others = [m for m in range(episodes) if m != n]
            fit = numpy_fit.Fit(trajectory, discount, ridge, features, others)
            np.testing.assert_allclose(got[n], fit.values(trajectory, n), rtol=1e-8, atol=1e-8)


def test_leave_one_out_ignores_the_episode_that_it_scores():
    """Another reward of episode 3 moves only the others' V, another observation that of its step too.

    Bit for bit, where only rewards differ; the features' unit is that of all episodes, so another observation rounds
    otherwise.
    """
    trajectory = random_trajectory(6)
    score = jax.jit(lambda data: leave_one_out()(data, 0.9))
    values, following = score(trajectory)
    moved_values, moved_following = score(trajectory.replace(reward=trajectory.reward.at[3, 2].add(5.0)))
    np.testing.assert_array_equal(values[3], moved_values[3])
    np.testing.assert_array_equal(following[3], moved_following[3])
    assert all((moved_values[n] != values[n]).any() for n in range(12) if n != 3)
    with jax.enable_x64():
        trajectory = random_trajectory(6)
        moved = trajectory.replace(observation=trajectory.observation.at[3, 2].add(5.0))
        apart = np.abs(score(moved)[0][3] - score(trajectory)[0][3])
    np.testing.assert_array_equal(apart < 1e-9, np.arange(9) != 2)


def test_episodes_without_steps_do_not_count_in_a_fit():
    with jax.enable_x64():
        trajectory = random_trajectory(7)
        masked = trajectory.replace(valid=trajectory.valid.at[2].set(False).at[5].set(False))
        kept = jax.tree.map(lambda leaf: jnp.delete(leaf, jnp.array([2, 5]), axis=0), trajectory)
        fit = compiled(linear_feature().fit)
        for discount in (0.0, 0.9, 1.0):
            for got, wanted in zip(fit(masked, discount), fit(kept, discount), strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-10)
        nothing = trajectory.replace(valid=jnp.zeros_like(trajectory.valid))
        weights = fit(nothing, 0.9).weights
        np.testing.assert_array_equal(weights, np.zeros_like(weights))


# Two actions, two steps, three episodes: 4 paths, 64 data sets. The second state depends on the first action.
# The reward of the first action, and of the second after each first one.
FIRST_REWARD, SECOND_REWARD = (1.0, -0.5), ((0.0, -0.4), (0.3, 2.0))


def episodes_of(actions, parameters):
    """All steps of three two-step episodes with the given actions [3, 2]."""
    first, second = actions[:, 0], actions[:, 1]
    observation = jnp.stack([jnp.full(3, 0.5), 1.0 + first], axis=1)[..., None]
    reward = jnp.stack([jnp.array(FIRST_REWARD)[first], jnp.array(SECOND_REWARD)[first, second]], axis=1)
    trajectory = Trajectory(
        observation=observation,
        action=actions,
        log_prob=jnp.zeros((3, 2)),
        reward=reward,
        discount=jnp.ones((3, 2)),
        truncated=jnp.zeros((3, 2), bool),
        valid=jnp.ones((3, 2), bool),
        next_observation=jnp.concatenate([observation[:, 1:], 2 * observation[:, 1:]], axis=1),
    )
    return trajectory.replace(log_prob=policies.log_prob(LINEAR_POLICY, parameters, trajectory))


LINEAR_POLICY = Policy(
    init=lambda key: jnp.zeros((2, 2)), apply=lambda p, observation: policies.Categorical(p[0] + p[1] * observation)
)


def test_leave_one_out_keeps_the_policy_gradient_unbiased_and_the_fit_to_the_own_batch_does_not():
    """Σ_D p(D) ĝ(D) over all 64 data sets of three episodes, against the gradient of the expected return."""
    with jax.enable_x64():
        parameters = jnp.array([[0.2, -0.1], [0.3, 0.1]])
        data_sets = jnp.array(list(itertools.product(range(2), repeat=6))).reshape(-1, 3, 2)

        def mean_return(p):  # per step
            def weighted(actions):
                trajectory = episodes_of(actions, p)
                return jnp.exp(trajectory.log_prob.sum()) * trajectory.reward.mean()

            return jax.vmap(weighted)(data_sets).sum()

        def expected_gradient(baseline):
            estimator = gae(1.0, 1.0, baseline, normalized=False)

            def weighted(actions):
                trajectory = episodes_of(actions, parameters)
                advantage = estimator(trajectory)

                def objective(p):
                    return (policies.log_prob(LINEAR_POLICY, p, trajectory) * advantage).mean()

                return jnp.exp(trajectory.log_prob.sum()) * jax.grad(objective)(parameters)

            return jax.jit(jax.vmap(weighted))(data_sets).sum(0)

        exact = jax.jit(jax.grad(mean_return))(parameters)
        np.testing.assert_allclose(expected_gradient(zero()), exact, atol=1e-12)
        for baseline in (leave_one_out(), leave_one_out(linear_time())):
            np.testing.assert_allclose(expected_gradient(baseline), exact, atol=1e-12)
        for baseline in (linear_feature(), linear_time()):
            bias = expected_gradient(baseline) - exact
            assert jnp.linalg.norm(bias) > 0.2 * jnp.linalg.norm(exact)


def test_leave_one_out_refuses_a_single_episode():
    lonely = jax.tree.map(lambda leaf: leaf[:1], random_trajectory(0))
    with pytest.raises(ValueError, match="episodes is 1; leave_one_out .* at least 2"):
        leave_one_out()(lonely, 0.9)


@pytest.mark.parametrize("baseline", [zero(), leave_one_out()])
def test_leave_one_out_refuses_what_is_not_fitted(baseline):
    with pytest.raises(ValueError, match="baseline is .* leave_one_out needs one that is fitted"):
        leave_one_out(baseline)


OUTLIERS = {
    "an episode far off": lambda o: o.at[1].multiply(1e4),
    "a step far off": lambda o: o.at[1, 0, 0].set(1e3),
    "a constant in the others": lambda o: o.at[:, :, 1].set(3.0).at[1, 2, 1].set(5.0),
    "a constant": lambda o: o.at[:, :, 1].set(-7.0),
    "far from zero": lambda o: o + 100.0,
}


@pytest.mark.parametrize("kind", OUTLIERS)
@pytest.mark.parametrize("x64", [True, False])
def test_leave_one_out_is_n_fits_whatever_the_episode_that_is_left_out(kind, x64):
    """The others' regression knows nothing of it: not its level, not its spread, not that a feature varies there."""
    fit = linear_feature(1e-5)
    with jax.enable_x64(x64):
        trajectory = random_trajectory(8, 6)
        observation = OUTLIERS[kind](trajectory.observation)
        trajectory = trajectory.replace(observation=observation, next_observation=jnp.roll(observation, -1, axis=1))
        quick = np.stack(compiled(leave_one_out(fit))(trajectory, 0.9))
        slow = np.stack(compiled(leave_one_out(FittedBaseline(fit.fit, fit.values)))(trajectory, 0.9))
    scale = np.abs(slow).max(-1, keepdims=True)
    np.testing.assert_allclose(quick / scale, slow / scale, atol=1e-9 if x64 else 2e-3)
