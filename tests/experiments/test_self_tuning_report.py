"""What experiments/self_tuning.py computes from the lives that it has seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.experiments.scripts import load

script = load("self_tuning")


def test_the_share_of_the_gap_and_its_interval():
    bad, good, tuned = np.full(10, 0.2), np.full(10, 1.0), np.full(10, 0.8)
    np.testing.assert_allclose(script.recovered(bad, good, tuned), [0.75] * 3, rtol=1e-12)
    tuned = np.where(np.arange(10) < 5, 0.2, 1.0)
    share, low, high = script.recovered(bad, good, tuned)
    # Half of the seeds recover all of it: the share's standard error is √(½·½/10) = 0.158.
    assert share == pytest.approx(0.5)
    assert (0.5 - low, high - 0.5) == (pytest.approx(1.96 * 0.158, abs=0.1), pytest.approx(1.96 * 0.158, abs=0.1))


def test_the_last_tenth_counts():
    returns = np.arange(20.0)[:, None] * np.array([1.0, 2.0])
    np.testing.assert_allclose(script.final(returns), [18.5, 37.0])


def test_a_row_that_diverged_leaves_the_others_their_pictures(tmp_path):
    script.draw({"one": np.zeros((5, 2)), "other": np.ones((5, 2))}, tmp_path / "returns.png")
    assert (tmp_path / "returns.png").stat().st_size > 5_000


@pytest.mark.parametrize(("action", "steps", "reward"), [(0, 2, 0.2), (1, 7, 1.0)])
def test_the_corridor_ends_where_its_rewards_are(action, steps, reward):
    env = script.corridor()
    task = env.sample_task(jax.random.key(0))
    state = env.reset(jax.random.key(1), task)
    rewards = []
    while not state.terminated:
        assert state.observation.argmax() == script.START + (2 * action - 1) * len(rewards)
        state = env.step(task, state, jnp.array(action))
        rewards.append(float(state.reward))
    np.testing.assert_allclose(rewards, [0.0] * (steps - 1) + [reward])
