"""A recorded episode is the one that a rollout would collect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import envs, policies
from metarl_jax.rollout import rollout
from metarl_jax.runs.pictures.replay import record
from tests import toys

T = 6


def from_integers(env):
    """The environment whose `reset` says its numbers as integers."""

    def reset(key, task):
        start = env.reset(key, task)
        return start.replace(observation=start.observation.astype(int), reward=0)

    return dataclasses.replace(env, reset=reset)


@pytest.mark.parametrize(
    "env", [envs.make("point-nav", horizon=T), from_integers(toys.dot("vector", T))], ids=lambda env: env.name
)
def test_a_recorded_episode_is_that_of_a_rollout(env):
    policy = policies.mlp(env, hidden=(4,))
    params, task, key = policy.init(jax.random.key(0)), env.sample_task(jax.random.key(1)), jax.random.key(2)
    expected = jax.jit(lambda key: rollout(key, env, policy, params, task, 1, T))(key)
    found = record(jax.random.fold_in(key, 0), env, policy, params, task, lambda state: state.observation, T)
    np.testing.assert_allclose(found.reward, expected.reward[0], rtol=1e-6)
    np.testing.assert_allclose(found.look[:-1], expected.observation[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.look[1:], expected.next_observation[0], rtol=1e-6, atol=1e-7)


def test_an_ended_episode_stands_still():
    env = envs.make("point-nav", horizon=T)
    policy = policies.mlp(env, hidden=(4,), init_std=0.01)
    params = policy.init(jax.random.key(0))
    task = envs.GoalTask(jnp.zeros(2))  # where every episode starts, so that the first small step ends it
    found = record(jax.random.key(0), env, policy, params, task, lambda state: state.observation, T)
    last = int(found.valid.sum())
    assert last < T
    assert not found.reward[last:].any()
    assert (found.look[last:] == found.look[last]).all()
