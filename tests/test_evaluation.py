import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from metarl_jax.evaluation import (
    across_seeds,
    evaluate,
    interquartile_mean,
    iqm_interval,
    standard_error,
    summarize,
)
from metarl_jax.runs.evaluation import reports
from metarl_jax.training import streams
from metarl_jax.types import Adaptation, Trajectory
from tests.runs.stub import STEPS, stub_algorithm, stub_env

KEY = streams(jax.random.key(0)).evaluate
PARAMS = {"w": np.array([1.0, 2.0, 3.0], np.float32), "b": np.float32(0)}


@pytest.mark.parametrize("count", [2, 3, 4, 5, 39, 40, 41])
def test_interquartile_mean_and_standard_error_agree_with_scipy(count):
    values = np.random.default_rng(count).normal(size=(count, 3))
    np.testing.assert_allclose(interquartile_mean(values), scipy.stats.trim_mean(values, 0.25))
    np.testing.assert_allclose(standard_error(values), scipy.stats.sem(values))


def test_the_interval_agrees_with_the_bootstrap_of_scipy():
    """Stratified: scipy resamples each of several samples, here a task's seeds, by itself."""
    random = np.random.default_rng(3)
    scores = random.normal(size=(6, 5)) + 3 * np.arange(5)

    def pooled(*tasks, axis):
        return scipy.stats.trim_mean(np.concatenate(tasks, axis), 0.25, axis=axis)

    found = iqm_interval(scores, draws=4000)
    expected = scipy.stats.bootstrap(tuple(scores.T), pooled, n_resamples=4000, method="percentile", rng=random)
    np.testing.assert_allclose(found.estimate, scipy.stats.trim_mean(scores.ravel(), 0.25))
    # Both ends are quantiles of 4000 draws; they lie within a twentieth of the interval's width of each other.
    width = found.high - found.low
    np.testing.assert_allclose(found[1:], expected.confidence_interval, atol=0.05 * width)
    # Resampling tasks as well would make it several times as wide.
    assert width < 0.25 * np.ptp(np.percentile(scores.mean(0)[random.integers(5, size=(1000, 5))].mean(1), [2.5, 97.5]))


def test_the_interval_of_known_cases():
    tasks = np.arange(8.0) ** 2
    same = np.broadcast_to(tasks, (3, 8))  # seeds agree, whatever the tasks
    assert iqm_interval(same) == (tasks[2:6].mean(),) * 3
    # One task and two seeds, 0 and 1: of four equally likely draws one has the mean 0, two 1/2, one 1.
    coin = np.array([[0.0], [1.0]])
    assert iqm_interval(coin) == (0.5, 0.0, 1.0)
    assert iqm_interval(coin, level=0.4) == (0.5, 0.5, 0.5)
    # Every task draws by itself: one draw in sixteen is all 0, though no seed is 0 on both tasks.
    assert iqm_interval(np.array([[0.0, 1.0], [1.0, 0.0]])) == (0.5, 0.0, 1.0)
    # Every trailing axis sees the same draws.
    scores = np.random.default_rng(0).normal(size=(3, 7, 2))
    np.testing.assert_allclose(np.stack(iqm_interval(scores))[:, 1], np.stack(iqm_interval(scores[..., 1])), rtol=1e-12)
    np.testing.assert_allclose(iqm_interval(scores * 2 + 1).low, iqm_interval(scores).low * 2 + 1)


@pytest.mark.parametrize(
    ("scores", "message"),
    [(np.zeros((1, 5)), "at least 2 seeds"), (np.zeros(5), "must be"), (np.full((2, 3), np.nan), "a NaN or infinity")],
)
def test_scores_without_an_interval_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        iqm_interval(scores)


def test_the_gain_is_paired():
    # Tasks differ widely, every one of them gains 1, 2 or 3: the spread between tasks must not enter.
    start = np.array([-1000.0, 0.0, 1000.0])
    row = summarize(np.stack([start, start + np.array([1.0, 2.0, 3.0])], 1))
    np.testing.assert_allclose(row.gain_mean, [0, 2])
    np.testing.assert_allclose(row.gain_standard_error, [0, 1 / np.sqrt(3)])
    np.testing.assert_allclose(row.mean, [0, 2])
    np.testing.assert_allclose(row.median, [0, 2])
    assert row.standard_error[1] > 500


def test_one_task_has_no_standard_error():
    with pytest.raises(ValueError, match="at least 2"):
        summarize(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="num_tasks is 1"):
        evaluate(stub_algorithm(), stub_env(), KEY, PARAMS, num_tasks=1)


def test_it_is_deterministic_and_the_first_tasks_do_not_depend_on_their_number():
    algorithm, env = stub_algorithm(), stub_env()
    a, b = (evaluate(algorithm, env, KEY, PARAMS, num_tasks=6) for _ in range(2))
    few = evaluate(algorithm, env, KEY, PARAMS, num_tasks=3)
    other = evaluate(algorithm, env, jax.random.key(9), PARAMS, num_tasks=6)
    for name in ("adapted", "random_init"):
        assert a[name].per_task.shape == (6, STEPS + 1)
        np.testing.assert_array_equal(a[name].per_task, b[name].per_task)
        np.testing.assert_allclose(a[name].per_task[:3], few[name].per_task, rtol=1e-6)
        assert not np.allclose(a[name].per_task, other[name].per_task)


def test_both_rows_see_the_same_tasks_and_draws_through_one_program():
    traces: list = []
    algorithm = stub_algorithm(traces=traces)
    rows = evaluate(algorithm, stub_env(), KEY, PARAMS, num_tasks=5)
    # The stub adds Σw to what task and key alone determine.
    difference = rows["adapted"].per_task - rows["random_init"].per_task
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-5)
    assert len(np.unique(difference[:, 0].round(4))) == 5  # and every task has an untrained θ of its own
    assert traces.count("adapt") == 1


def test_a_task_counts_by_the_mean_of_its_episodes():
    algorithm = stub_algorithm()._replace(
        adapt=lambda key, params, task: Adaptation(
            params,
            task + jnp.array([[0.0, 1.0, 5.0], [1.0, 1.0, 1.0], [0.0, 0.0, 9.0]]),
            None,
            jnp.array([[5, 3, 2], [4, 4, 5], [1, 1, 1]]),
        )
    )
    row = evaluate(algorithm, stub_env(), KEY, PARAMS, num_tasks=4, burn_in=1)["adapted"]
    np.testing.assert_allclose(row.per_task[:, 1] - row.per_task[:, 0], -1, rtol=1e-5)
    np.testing.assert_array_equal(row.episodes, [0, 3, 6])
    np.testing.assert_array_equal(row.environment_steps, [0, 10, 23])  # before each step, early ends counted
    # J per episode: both counted steps' means, 1 and 3, over the same tasks.
    np.testing.assert_allclose(row.counted_mean, row.mean[0], rtol=1e-6)
    np.testing.assert_allclose(row.counted_standard_error, scipy.stats.sem(row.per_task[:, 1:].mean(1)), rtol=1e-6)


def test_burn_in_says_which_steps_count():
    per_task = np.random.default_rng(0).normal(size=(5, 4))
    for burn_in in range(4):
        row = summarize(per_task, burn_in=burn_in)
        np.testing.assert_allclose(row.counted_mean, per_task[:, burn_in:].mean())
        np.testing.assert_allclose(row.counted_standard_error, scipy.stats.sem(per_task[:, burn_in:].mean(1)))
    # By default only the last one counts.
    assert summarize(per_task).counted_mean == summarize(per_task, burn_in=3).counted_mean
    for burn_in, message in (
        (4, r"burn_in is 4; with 4 stages it must lie in 0\.\.3"),
        (-1, "burn_in is -1"),
        (1.5, "1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            summarize(per_task, burn_in=burn_in)


def test_evaluation_leaves_void_episodes_out_and_says_how_many(tmp_path):
    """Every task has a void episode at each step; tasks below 0.3 have no other at step 1."""

    def adapt(key, params, task):
        void = jnp.array([[True, False, False]] * 2) | ((task < 0.3) & jnp.array([[False], [True]]))
        returns = jnp.where(void, jnp.nan, task + jnp.array([[9.0, 0.0, 2.0], [9.0, 3.0, 5.0]]))
        fields = dict.fromkeys(Trajectory.__dataclass_fields__)
        return Adaptation(params, returns, Trajectory(**fields | {"valid": ~void[..., None]}))

    params = {"w": np.ones(3, np.float32), "b": np.float32(0)}
    algorithm = stub_algorithm()._replace(adapt=adapt)
    row = evaluate(algorithm, stub_env(), jax.random.key(0), params, num_tasks=12)["adapted"]
    left_out = np.isnan(row.per_task[:, 1])
    assert 0 < left_out.sum() == row.tasks_left_out < 6
    kept = row.per_task[~left_out]
    np.testing.assert_allclose(kept[:, 1] - kept[:, 0], 3, rtol=1e-5)
    np.testing.assert_array_equal(row.mean, kept.mean(0))
    np.testing.assert_allclose(row.gain_mean, [0, 3], rtol=1e-5)
    np.testing.assert_array_equal(row.diverged_episodes, [12, 12 + 2 * left_out.sum()])

    about = {
        "task": "",
        "algorithm": "",
        "split": "test",
        "episodes_per_step": 3,
        "inner_lr": [0.1],
        "inner_lr_beyond": "decay",
        "trained_steps": 1,
        "trained_stages": 2,
        "burn_in": 1,
    }
    report = reports.to_report({0: {"adapted": row}}, reports.Setting(**about, iteration=0, seed=0))
    reports.write_report(report, tmp_path / "evaluation.json")
    written = json.loads((tmp_path / "evaluation.json").read_text())["rows"]["adapted"]
    assert [means[1] is None for means in written["per_task"]] == left_out.tolist()
    assert written["diverged_episodes"] == row.diverged_episodes.tolist()
    assert written["tasks_left_out"] == left_out.sum()
    assert f"diverged in {sum(written['diverged_episodes'])} episodes" in str(reports.table(report).caption)


def test_standard_errors_across_seeds_are_over_their_means():
    """Three trainings that differ by 0, 10 and 20 everywhere; tasks differ by hundreds, which must not enter."""
    base = np.array([[-300.0, 1.0], [0.0, 2.0], [300.0, 6.0], [600.0, 7.0]])
    rows = [summarize(base + 10 * seed) for seed in range(3)]
    row = across_seeds(rows)
    np.testing.assert_allclose(row.per_task, base + 10)
    np.testing.assert_allclose(row.mean, base.mean(0) + 10)
    np.testing.assert_allclose(row.standard_error, 10 / np.sqrt(3))
    np.testing.assert_allclose(row.gain_standard_error, 0, atol=1e-12)
    np.testing.assert_allclose([row.counted_mean, row.counted_standard_error], [14, 10 / np.sqrt(3)])
    everything = np.concatenate([base + 10 * seed for seed in range(3)])
    np.testing.assert_allclose(row.median, np.median(everything, 0))
    np.testing.assert_allclose(row.iqm, scipy.stats.trim_mean(everything, 0.25))
    with pytest.raises(ValueError, match="rows holds 1"):
        across_seeds(rows[:1])


def test_a_task_that_one_seed_lost_is_not_averaged_with_nothing():
    per_task, lengths = np.arange(6.0).reshape(3, 2), np.full((3, 2, 4), 7)
    lost = np.zeros((3, 2), bool)
    lost[1, 0] = True
    fewer = np.where(lost[..., None], 0, lengths)
    row = across_seeds([summarize(per_task, lengths), summarize(np.where(lost, np.nan, per_task + 2), fewer)])
    np.testing.assert_allclose(row.per_task, per_task + np.where(lost, 0, 1))
    assert (row.tasks_left_out, row.diverged_episodes.tolist()) == (1, [4, 0])


def test_an_evaluation_of_too_few_whole_tasks_is_refused_in_words():
    lengths = np.ones((3, 2, 4), int)
    lengths[:2, 1] = 0
    with pytest.raises(ValueError, match="diverged in every episode of some step in 2 of 3 tasks"):
        summarize(np.zeros((3, 2)), lengths)


def test_a_row_prints_as_a_table_and_has_columns():
    row = summarize(np.array([[0.0, 2.0], [2.0, 8.0]]))
    before, after = str(row).splitlines()[1:]
    assert before.split()[2:] == ["1.00", "±", "1.00", "1.00", "1.00"]
    assert after.split()[2:] == ["5.00", "±", "3.00", "5.00", "5.00", "+4.00", "±", "2.00"]
    assert {len(column) for column in row.columns.values()} == {2}
    np.testing.assert_array_equal(row.columns["gain_mean"], [0, 4])
