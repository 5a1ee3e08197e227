"""Trials far longer than those of training: what they take of memory, and what is drawn and printed of them."""

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

import metarl_jax as mrl
from metarl_jax import plot
from metarl_jax.evaluation import _returns, summarize
from metarl_jax.runs.evaluation import reports
from metarl_jax.sharing import Program
from tests import toys

TASKS, EPISODES, HORIZON = 3, 4, 25


def point(steps, name="maml", **options):
    env = mrl.envs.make("point-nav", horizon=HORIZON, **options)
    sizes = {"episodes": EPISODES, "adaptation_steps": steps, "inner_lr": (0.1, 0.01)}
    accepted = mrl.algorithms.options(name)
    sizes = {option: value for option, value in sizes.items() if option in accepted}
    sizes |= {"inner_lr": 0.01} if name == "self-tuning" else {}  # its one rate is tuned
    return env, mrl.algorithms.make(name, env, policy={"hidden": (4,), "min_std": 0.1}, **sizes)


def compiled(steps, name="maml"):
    """The adaptation as `evaluate` runs it, on tasks outside of the training distribution, and its arguments."""
    env, algorithm = point(steps, name, split="ood")
    keys = jax.random.split(jax.random.key(0), TASKS)
    theta = jax.vmap(lambda key: algorithm.init(key).params)(keys)
    arguments = Program(algorithm.adapt), keys, theta, jax.vmap(env.sample_task)(keys)
    return _returns.lower(*arguments, None, False).compile(), arguments


@pytest.fixture(scope="module")
def long():
    """Of 1001 stages, so 4004 episodes per task."""
    return compiled(1000)


def assert_memory_hardly_grows(short, long):
    """Of D nothing outlives its stage but returns and lengths, a number each, and what becomes of them."""
    bytes_of = [program.memory_analysis().temp_size_in_bytes for program in (short, long)]
    per_episode = (bytes_of[1] - bytes_of[0]) / (990 * TASKS * EPISODES)
    assert per_episode < 32, "the rewards of its 25 steps alone would take 100 bytes, and its key takes 8"


def test_memory_hardly_grows_with_the_length_of_a_trial(long):
    assert_memory_hardly_grows(compiled(10)[0], long[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fomaml", "rl2", "rl2-hyper", "lpg", "self-tuning"])
def test_memory_of_other_algorithms_hardly_grows_either(name):
    assert_memory_hardly_grows(compiled(10, name)[0], compiled(1000, name)[0])


def test_a_summary_per_stage_is_that_of_the_trajectory():
    """Lengths and returns are made where the stage is, and equal what the whole D says; some episodes end early."""
    env = toys.walk()
    algorithm = mrl.algorithms.make("maml", env, episodes=5, adaptation_steps=2, policy={"hidden": (4,)})
    theta, task = algorithm.init(jax.random.key(0)).params, env.sample_task(jax.random.key(1))
    out = jax.jit(algorithm.adapt)(jax.random.key(2), theta, task)
    valid, reward = np.asarray(out.trajectory.valid), np.asarray(out.trajectory.reward)
    assert not valid.all()
    np.testing.assert_array_equal(out.lengths, valid.sum(-1))
    np.testing.assert_allclose(out.returns, (reward * valid).sum(-1), rtol=1e-5)


@pytest.fixture(scope="module")
def row(long):
    program, arguments = long
    return summarize(**jax.device_get(program(*arguments)), burn_in=500)


def test_thousands_of_episodes_out_of_distribution(row):
    assert row.per_task.shape == (TASKS, 1001)
    assert np.isfinite(row.per_task).all()
    np.testing.assert_array_equal(row.episodes, EPISODES * np.arange(1001))
    assert row.environment_steps[0] == 0
    taken = np.diff(row.environment_steps)
    assert (taken > 0).all()
    assert (taken < EPISODES * HORIZON + 1e-6).all()
    assert taken.min() < EPISODES * HORIZON, "episodes of this family end at the goal"
    np.testing.assert_allclose(row.counted_mean, row.per_task[:, 500:].mean())
    assert row.counted_mean > row.mean[0], "a thousand steps of policy gradient on one task reach more than none"


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        (1, [0]),
        (4, [0, 1, 2, 3]),
        (12, list(range(12))),
        (13, [0, 1, 2, 4, 8, 12]),
        (1001, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]),
        (5000, [0, 1, 3, 9, 27, 81, 243, 729, 2187, 4999]),
    ],
)
def test_a_long_table_shows_a_few_rows(steps, shown):
    assert reports.few(range(steps)) == shown


def test_a_report_of_a_long_trial(row):
    about = {
        "task": "point-nav",
        "algorithm": "maml",
        "split": "ood",
        "inner_lr": [0.1],
        "inner_lr_beyond": "decay",
    } | {
        "trained_steps": 1,
        "trained_stages": 2,
    }
    setting = reports.Setting(**about, episodes_per_step=EPISODES, burn_in=500, iteration=0, seed=0)
    report = reports.to_report({0: {"adapted": row}}, setting)
    written = report["rows"]["adapted"]
    assert {len(written[name]) for name in ("steps", "episodes", "environment_steps", "mean")} == {1001}
    assert written["episodes"][-1] == 4000
    assert report["burn_in"] == 500
    table = reports.table(report)
    assert table.row_count == 12
    assert f"{row.counted_mean:.2f} ± {row.counted_standard_error:.2f} per episode of the stages 500 to 1000" in str(
        table.caption
    )


def test_the_axis_is_episodes():
    """A tick per stage where stages are few, none of them where they are many, and a log scale for hundreds."""
    for stages, each, scale, ticks in ((4, 20, "linear", 4), (60, 1, "linear", None), (1001, 4, "symlog", None)):
        axes = Figure().add_subplot()
        episodes = [each * stage for stage in range(stages)]
        axes.plot(episodes, episodes)
        plot.episodes_axis(axes, episodes)
        label = axes.get_xlabel()
        assert label == ("episodes seen" if each == 1 else f"episodes seen ({each} per stage)")
        assert axes.get_xscale() == scale
        assert len(axes.get_xticks()) == ticks if ticks else len(axes.get_xticks()) < 15
