"""Brax families on the other physics backends: minutes of compilation, hence slow."""

import importlib

import jax
import numpy as np
import pytest

import metarl_jax.envs as envs
from metarl_jax.envs.brax_adapter import BACKENDS, simulator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def record(request):
    return importlib.import_module("tests.conftest").record


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("name", ["cheetah-vel", "reacher-goal"])
def test_rewards_and_secrecy_hold_on_every_backend(name, backend, record):
    env = envs.make(name, backend=backend)
    recorded = record(env, steps=6)
    states, tasks = recorded.states, recorded.tasks
    assert np.isfinite(states.observation).all()
    control = np.clip(np.asarray(recorded.actions, np.float64), -1, 1)
    if name == "cheetah-vel":
        position = np.asarray(states.internal.x.pos[..., 0, 0], np.float64)
        np.testing.assert_allclose(position, states.internal.q[..., 0], atol=1e-4)  # positions are of this very moment
        velocity = np.diff(position, axis=-1) / simulator("halfcheetah", backend).dt
        expected = -np.abs(velocity - np.asarray(tasks.target)[:, None]) - 0.05 * (control**2).sum(-1)
        np.testing.assert_allclose(states.reward[:, 1:], expected, rtol=1e-5, atol=1e-4)
    else:
        # Joint coordinates are exact on these backends, up to a solver's tolerance, so they give the tip.
        q = np.asarray(states.internal.q, np.float64)
        first, both = q[..., 0], q[..., 0] + q[..., 1]
        tip = 0.1 * np.stack([np.cos(first), np.sin(first)], -1) + 0.11 * np.stack([np.cos(both), np.sin(both)], -1)
        np.testing.assert_allclose(states.observation[..., 6:], tip, atol=5e-3)
        distance = np.linalg.norm(states.observation[:, 1:, 6:] - np.asarray(tasks.goal)[:, None], axis=-1)
        np.testing.assert_allclose(states.reward[:, 1:], -distance - 0.01 * (control**2).sum(-1), atol=1e-5)
    other = jax.tree.map(lambda leaf: 0.5 * leaf, tasks)
    again = recorded.run(recorded.keys, other, recorded.actions)
    # The solvers of generalized and mjx treat the whole model at once, so the marker may move the last bits.
    np.testing.assert_allclose(again.observation, states.observation, rtol=1e-3, atol=1e-3)
    assert not np.array_equal(again.reward, states.reward)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backend_asked_for_is_the_one_that_runs(backend):
    assert simulator("halfcheetah", backend).env.backend == backend
