"""envs.check and a rollout: what makes an episode void there is a fault here, and nothing less is."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

import metarl_jax as mrl
from metarl_jax.rollout import rollout
from tests.envs.test_check import SOUND, walk


def step_scaled(observation, reward):
    """Steps to a place and a reward of these sizes, which action and task move a little."""

    def scaled(task, state, action):
        return walk(jnp.array([observation, action[0]]), -reward + 0.1 * task["goal"][0])

    return scaled


SIZES = {
    "observation": (
        lambda size: step_scaled(size, 1.0),
        1e8,
        "observation too large, first after 1 steps: observation[0] is 1",
    ),
    "reward": (lambda size: step_scaled(1.0, size), 1e14, "reward too large, first after 1 steps: reward is -1"),
}


@pytest.mark.parametrize("field", SIZES)
def test_the_limits_are_those_of_a_rollout(field):
    step_of, most, words = SIZES[field]
    policy = mrl.Policy(lambda key: jnp.zeros(2), lambda p, o: mrl.policies.DiagonalGaussian(p, p))

    def void(key, env):
        return rollout(key, env, policy, jnp.zeros(2), env.sample_task(key), 2, 2).void

    for size, beyond in ((0.99 * most, False), (1.01 * most, True)):
        env = dataclasses.replace(SOUND, step=step_of(size))
        assert any(words in fault for fault in mrl.envs.check(env)) == beyond
        assert jax.jit(void, static_argnums=1)(jax.random.key(0), env).all() == beyond
