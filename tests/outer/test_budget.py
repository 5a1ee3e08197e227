"""Stages of so many environment steps: which episodes count, and that nothing else changes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.evaluation import evaluate
from metarl_jax.outer import describe, within_budget
from metarl_jax.policies.likelihood import pad_with_first
from tests import rows
from tests.data import random_trajectory


@pytest.mark.parametrize("budget", [1, 9, 10, 40, 10_000])
def test_whole_episodes_count_until_the_budget_is_spent(budget):
    trajectory = random_trajectory(3)
    broken = np.arange(12) == 4  # took no step, so the budget is as it was
    valid = trajectory.valid & ~broken[:, None]
    trajectory = pad_with_first(trajectory, valid).replace(valid=valid, reward=jnp.where(valid, trajectory.reward, 0))
    cut = within_budget(trajectory, budget)

    spent, spare = 0, []
    for length in np.asarray(trajectory.lengths):
        spare.append(spent >= budget)
        spent += 0 if spare[-1] else length
    spare = np.array(spare)
    np.testing.assert_array_equal(cut.spare, spare)
    np.testing.assert_array_equal(cut.diverged, broken & ~spare)
    np.testing.assert_array_equal(cut.void, broken | spare)
    np.testing.assert_array_equal(cut.lengths, np.where(spare, 0, trajectory.lengths))
    np.testing.assert_array_equal(np.isnan(cut.returns), broken | spare)
    kept, whole = (jax.tree.map(lambda leaf: leaf[~spare], tree.replace(spare=None)) for tree in (cut, trajectory))
    jax.tree.map(np.testing.assert_array_equal, kept, whole)
    for leaf in jax.tree.leaves(cut.replace(valid=None, reward=None, spare=None)):  # harmless padding
        np.testing.assert_array_equal(leaf[spare], np.broadcast_to(leaf[spare][:, :1], leaf[spare].shape))


def test_a_sum_over_the_episodes_that_count_keeps_its_meaning_and_a_mean_prefers_long_ones():
    """By enumeration of all lengths 1 and 2, where an episode returns the square of its length: Wald's identity."""
    lengths = jnp.array(list(itertools.product([1, 2], repeat=6)))
    valid = jnp.arange(2) < lengths[..., None]
    blank = jax.tree.map(lambda leaf: jnp.zeros((6, 2)), random_trajectory(0))

    def of(valid, length):
        cut = within_budget(blank.replace(valid=valid, reward=jnp.where(valid, length[:, None], 0)), 5)
        return jnp.nansum(cut.returns), (~cut.void).sum()

    total, counted = jax.vmap(of)(valid, lengths)
    mean_return = (1 + 4) / 2
    np.testing.assert_allclose(total.mean(), counted.mean() * mean_return, rtol=1e-6)
    assert mean_return < (total / counted).mean() < 1.1 * mean_return


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("maml", {"credit": True, "credit_estimator": "influence"}),
        rows.thorough("maml", {"credit": True, "average": "valid"}),
        rows.thorough("maml", {}),
        rows.thorough("promp", {}),
        rows.thorough("dice", {"baseline": "leave_one_out"}),
    ],
    ids=str,
)
def test_a_budget_of_five_whole_episodes_is_five_episodes(name, options):
    """Where every episode takes T steps; how many more there might have been changes nothing."""
    env = mrl.envs.make("point-robot")
    common = {"tasks": 3, "horizon": 6, "policy": {"hidden": (8,)}} | options
    with jax.enable_x64():
        few = mrl.algorithms.make(name, env, episodes=5, **common)
        many = mrl.algorithms.make(name, env, episodes=8, stage_steps=30, **common)
        theta = few.init(jax.random.key(0)).params
        expected, told = jax.device_get(jax.jit(few.gradient)(jax.random.key(1), theta))
        gradient, metrics = jax.device_get(jax.jit(many.gradient)(jax.random.key(1), theta))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), gradient, expected)
    assert metrics["environment_steps"] == told["environment_steps"] == 3 * 2 * 5 * 6
    assert metrics["diverged_episodes"] == 0
    np.testing.assert_allclose(metrics["return"], told["return"], rtol=1e-6)


def test_an_evaluation_is_drawn_against_the_episodes_that_were_taken():
    env = mrl.envs.make("point-nav", action_scale=10.0)  # episodes end at the goal
    algorithm = mrl.algorithms.make("maml", env, episodes=40, stage_steps=120, horizon=20, policy={"init_std": 1.0})
    theta = algorithm.init(jax.random.key(0)).params
    row = evaluate(algorithm, env, jax.random.key(1), theta, num_tasks=8, steps=2)["adapted"]
    stages = np.arange(3)
    assert (stages * 120 <= row.environment_steps).all()
    assert (row.environment_steps < 1 + stages * 140).all()
    assert (stages * 6 <= row.episodes).all()
    assert row.episodes[2] < 80
    assert not row.diverged_episodes.any()
    assert not row.tasks_left_out
    assert np.isfinite(row.mean).all()


def test_a_task_counts_once_in_the_metrics_however_many_episodes_it_has():
    """Two tasks, a budget of 6: six episodes of one step that return −2 each, and two of three steps, −30 each."""
    blank = jax.tree.map(lambda leaf: jnp.zeros((8, 3)), random_trajectory(0))

    def of(length, value):
        valid = jnp.arange(3) < jnp.full((8, 1), length)
        return within_budget(blank.replace(valid=valid, reward=jnp.where(valid, value / length, 0)), 6)

    stages = jax.tree.map(lambda *leaves: jnp.stack(leaves)[:, None], of(1, -2.0), of(3, -30.0))
    metrics = describe(stages, jnp.zeros((2, 1, 4)))
    np.testing.assert_allclose(metrics["return"], [-16.0])
    np.testing.assert_allclose(metrics["valid_share"], 12 / (8 * 3))
    assert (metrics["environment_steps"], metrics["diverged_episodes"]) == (12, 0)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (0, "stage_steps is 0; it must be an integer of at least 1"),
        (2.5, "stage_steps is 2.5"),
        (True, "stage_steps is True"),
        (13, "stage_steps is 13, and 3 episodes of at most 4 steps never have more than 12"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        mrl.algorithms.make("maml", mrl.envs.make("point-nav"), episodes=3, horizon=4, stage_steps=steps)


def test_leave_one_out_needs_another_episode():
    make = mrl.algorithms.make
    with pytest.raises(ValueError, match="stage_steps is 4, one episode, and 'leave_one_out' fits to the others"):
        make("maml", mrl.envs.make("point-nav"), episodes=9, horizon=4, stage_steps=4, baseline="leave_one_out")
