"""Random trajectories with every kind of ending, for tests that need no environment."""

import jax
import jax.numpy as jnp
import numpy as np

import metarl_jax as mrl
from metarl_jax.types import Trajectory


def random_trajectory(seed, episodes=12, horizon=9, observation_size=3, action_size=2):
    """One task's stage [N, T]: full-length, terminated and truncated episodes, among them one of a single step.

    The behaviour's distributions are drawn at random per step; only its log-probabilities are recorded.
    """
    random = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape), float)

    lengths = np.concatenate([[1, horizon, horizon], random.integers(2, horizon + 1, episodes - 3)])
    ending = np.arange(episodes) % 3  # 0 terminated, 1 truncated, 2 by the horizon
    lengths[ending == 2] = horizon
    time = np.arange(horizon)
    valid = time < lengths[:, None]
    last = time == lengths[:, None] - 1
    mean, log_std = normal(episodes, horizon, action_size), 0.3 * normal(episodes, horizon, action_size)
    distribution = mrl.policies.DiagonalGaussian(mean, log_std)
    action = distribution.sample(jax.random.key(seed))
    observation = normal(episodes, horizon, observation_size)
    return Trajectory(
        observation=observation,
        action=action,
        log_prob=distribution.log_prob(action),
        reward=jnp.where(valid, normal(episodes, horizon), 0),
        discount=jnp.asarray(1.0 - (last & (ending == 0)[:, None]), float),
        truncated=jnp.asarray(last & (ending == 1)[:, None]),
        valid=jnp.asarray(valid),
        next_observation=jnp.concatenate([observation[:, 1:], normal(episodes, 1, observation_size)], axis=1),
    )


def compiled(baseline):
    """A baseline, (trajectory, discount) → V, as one program in place of many small ones."""
    return lambda trajectory, discount: jax.jit(lambda data: baseline(data, discount))(trajectory)
