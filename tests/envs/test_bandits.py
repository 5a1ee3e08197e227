"""Bandits and tabular MDPs against numpy and against their distributions (5 standard errors, fixed seeds)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax.envs as envs


def within(samples, mean, errors=5.0):
    """The sample mean lies within `errors` standard errors of `mean`."""
    samples = np.asarray(samples, np.float64)
    return abs(samples.mean() - mean) <= errors * samples.std(ddof=1) / np.sqrt(samples.size)


def sample_tasks(env, count, seed=0):
    return jax.vmap(env.sample_task)(jax.random.split(jax.random.key(seed), count))


def test_gaussian_bandit_reward(recording):
    recorded = recording("gaussian-bandit")
    expected = -((np.asarray(recorded.actions) - np.asarray(recorded.tasks.goal)[:, None]) ** 2)[..., 0]
    np.testing.assert_allclose(recorded.states.reward[:, 1:], expected, rtol=1e-6)
    assert recorded.env.horizon == 1
    assert not np.asarray(recorded.states.terminated).any()


def test_gaussian_bandit_goals():
    goal = np.asarray(sample_tasks(envs.make("gaussian-bandit", goal_mean=2.0, goal_std=0.5), 4000).goal)
    assert within(goal, 2.0)
    assert within((goal - 2.0) ** 2, 0.25)
    assert np.all(np.asarray(sample_tasks(envs.make("gaussian-bandit", goal_mean=2.0, goal_std=0), 4).goal) == 2.0)


@pytest.mark.parametrize("arms", [1, 5, 50])
def test_bernoulli_bandit_tasks(arms):
    env = envs.make("bernoulli-bandit", arms=arms)
    p = np.asarray(sample_tasks(env, 4000 // arms).probability)
    assert p.shape == (4000 // arms, arms)
    assert env.action_size == arms
    assert env.discrete
    assert p.min() >= 0
    assert p.max() < 1
    assert within(p, 0.5)
    assert within((p - 0.5) ** 2, 1 / 12)


def pulls(env, task, action, count):
    """Rewards of `count` episodes' first two pulls of one arm."""

    def episode(key):
        first = env.step(task, env.reset(key, task), action)
        return first.reward, env.step(task, first, action).reward

    return np.asarray(jax.vmap(episode)(jax.random.split(jax.random.key(3), count)))


def test_bernoulli_bandit_pays_with_the_arms_probability():
    env = envs.make("bernoulli-bandit", arms=3)
    task = envs.BanditTask(jnp.array([0.0, 0.3, 1.0]))
    assert not pulls(env, task, jnp.array(0), 100).any()
    assert pulls(env, task, jnp.array(2), 100).all()
    first, second = pulls(env, task, jnp.array(1), 4000)
    assert set(np.unique(first)) == {0.0, 1.0}
    assert within(first, 0.3)
    assert within(second, 0.3)
    assert within(first * second, 0.09)  # independent pulls


def test_tabular_mdp_tasks():
    env = envs.make("tabular-mdp")
    tasks = sample_tasks(env, 200)
    p = np.asarray(tasks.transition)
    assert p.shape == (200, 10, 5, 10)
    assert (env.observation_size, env.action_size, env.horizon) == (10, 5, 10)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    # Dirichlet(1) on 10 states: E p = 0.1 for each, E p² = 2 / (10·11).
    assert within(p[..., 0], 0.1)
    assert within(p[..., 7] ** 2, 2 / 110)
    assert within(tasks.mean_reward, 1.0)
    assert within((np.asarray(tasks.mean_reward) - 1) ** 2, 1.0)


def test_tabular_mdp_rewards_are_those_of_the_state_left(recording):
    env = envs.make("tabular-mdp", reward_std=0.0)
    task = env.sample_task(jax.random.key(0))
    state = env.reset(jax.random.key(1), task)
    cell, visited = 0, {0}
    for action in [0, 3, 4, 1, 2, 0]:
        assert np.array_equal(state.observation, np.eye(10)[cell])
        state = env.step(task, state, jnp.array(action))
        np.testing.assert_allclose(state.reward, np.asarray(task.mean_reward)[cell, action], rtol=1e-6)
        cell = int(np.argmax(state.observation))
        visited.add(cell)
    assert len(visited) > 2


def test_tabular_mdp_transitions_and_reward_noise():
    env = envs.make("tabular-mdp", states=3, actions=2)
    task = env.sample_task(jax.random.key(5))

    def first_step(key):
        state = env.step(task, env.reset(key, task), jnp.array(1))
        return state.observation, state.reward

    seen, reward = jax.vmap(first_step)(jax.random.split(jax.random.key(6), 4000))
    for cell in range(3):
        assert within(seen[:, cell], float(task.transition[0, 1, cell]))
    noise = np.asarray(reward) - float(task.mean_reward[0, 1])
    assert within(noise, 0.0)
    assert within(noise**2, 1.0)
    assert within(noise * (np.asarray(seen[:, 0]) - float(task.transition[0, 1, 0])), 0.0)  # independent draws
