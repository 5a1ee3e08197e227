"""point-nav against a transcription of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax.envs as envs


def walk(env, goal, actions):
    task, states = envs.GoalTask(jnp.asarray(goal, float)), []
    state = env.reset(jax.random.key(0), task)
    for action in actions:
        state = env.step(task, state, jnp.asarray(action, float))
        states.append(state)
    return states


@pytest.mark.parametrize("action_scale", [1.0, 10.0])
def test_reward_and_motion(action_scale):
    env = envs.make("point-nav", action_scale=action_scale)
    goal = np.array([0.3, -0.2])
    actions = np.random.default_rng(0).normal(scale=0.2 * action_scale, size=(30, 2))
    position = np.zeros(2)
    for action, state in zip(actions, walk(env, goal, actions), strict=True):
        position = position + np.clip(action / action_scale, -0.1, 0.1)
        offset = position - goal
        np.testing.assert_allclose(state.observation, position, atol=1e-6)
        np.testing.assert_allclose(state.reward, -np.sqrt(offset @ offset), atol=1e-6)
        assert bool(state.terminated) == (abs(offset[0]) < 0.01 and abs(offset[1]) < 0.01)
        assert not state.truncated


def test_the_episode_ends_only_with_both_coordinates_within_a_hundredth():
    env = envs.make("point-nav")
    assert env.horizon == 100
    for position, ends in [
        ((0.05, 0.05), True),
        ((0.0591, 0.0409), True),
        ((0.0611, 0.05), False),
        ((0.05, 0.0389), False),
        ((0.0, 0.05), False),
    ]:
        (state,) = walk(env, (0.05, 0.05), [position])
        assert bool(state.terminated) is ends, position
        assert not state.truncated


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (1.0, 3.0)])
def test_goals_are_uniform_in_a_square(bounds):
    env = envs.make("point-nav", goal_range=bounds)
    goal = np.asarray(jax.vmap(env.sample_task)(jax.random.split(jax.random.key(0), 4000)).goal, np.float64)
    unit = (goal - bounds[0]) / (bounds[1] - bounds[0])
    assert goal.shape == (4000, 2)
    assert unit.min() >= 0
    assert unit.max() < 1
    # Kolmogorov's distance of 4000 uniform draws exceeds 2.2/√4000 once in 8000.
    for column in unit.T:
        assert np.abs(np.sort(column) - (np.arange(4000) + 0.5) / 4000).max() < 2.2 / np.sqrt(4000)
    assert abs(np.corrcoef(unit.T)[0, 1]) < 5 / np.sqrt(4000)
