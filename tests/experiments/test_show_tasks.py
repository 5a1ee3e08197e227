"""Families shown at toy size: the card, the returns of trivial policies, a picture for every kind of task."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from metarl_jax import envs
from metarl_jax.commands import show_tasks as script
from metarl_jax.runs.console import cli
from metarl_jax.runs.pictures import show_tasks, task_pictures

FAMILIES = ["gaussian-bandit", "bernoulli-bandit", "tabular-mdp", "point-nav"]


@pytest.fixture(autouse=True)
def _an_unchanged_process(monkeypatch):
    monkeypatch.setattr(cli, "prepare_jax", lambda task=None: None)


@pytest.mark.parametrize("name", FAMILIES)
def test_card_returns_and_picture(name, tmp_path, capsys):
    script.main([name, "--tasks", "9", "--episodes", "1", "--horizon", "4", "--folder", str(tmp_path / "pictures")])
    out, card = capsys.readouterr().out, envs.card(name)
    words = " ".join(out.split())
    for text in (card.name, card.formula, card.tasks, card.observation, card.start, card.source, card.differences):
        assert " ".join(text.split()) in words
    path = tmp_path / "pictures" / f"{card.name}.png"
    assert str(path) in out
    assert Image.open(path).convert("L").getextrema()[1] == 255
    assert len(re.findall(r"^  (?:uniform actions|actions ~|action 0).* \S+ ± \S+$", out, re.MULTILINE)) == 2


def test_returns_of_trivial_policies_are_those_known_in_closed_form():
    env = envs.make("gaussian-bandit", horizon=3)
    tasks = envs.GoalTask(jnp.array([[0.0], [2.0]]))
    found = show_tasks.trivial_returns(jax.random.key(0), env, tasks, action_std=0.5, episodes=4000)
    np.testing.assert_allclose(found["zero"], [0, -3 * 4], atol=1e-5)
    # E[−(a − g)²] = −g² − σ², three times.
    np.testing.assert_allclose(found["random"], [-3 * 0.25, -3 * 4.25], rtol=0.03)


def test_trivial_policies_of_discrete_actions():
    env = envs.make("bernoulli-bandit", arms=2)
    tasks = envs.BanditTask(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    found = show_tasks.trivial_returns(jax.random.key(0), env, tasks, action_std=1.0, episodes=300)
    np.testing.assert_array_equal(found["zero"], [10, 0])
    np.testing.assert_allclose(found["random"], [5, 5], atol=0.4)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (envs.GoalTask(np.array([0.123, -0.5])), "goal (0.12, −0.50)"),
        (envs.VelocityTask(np.array(1.3)), "target 1.30 m/s"),
        (envs.DirectionTask(np.array(-1.0)), "direction backwards (−1)"),
        (envs.DirectionTask(np.array([0.6, -0.8])), "direction (0.60, −0.80)"),
        (
            envs.DynamicsTask({"mass": np.array([0.5, 1.26]), "gravity": np.array(1.1)}),
            "gravity × 1.1, mass × 0.5 to 1.3",
        ),
        ({"mass": np.array(1.2), "gain": np.ones(7)}, "gain [7], mass 1.20"),
        ({"mass": np.array(1.2), "maze": jax.random.key(3)}, "mass 1.20"),
        (jax.random.key(3), "task (0.00, 3.00)"),
    ],
)
def test_tasks_in_words(task, words):
    assert task_pictures.describe(task) == words


def kinds():
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, 50)
    return {
        "goal in space": envs.GoalTask(random.normal(size=(50, 3))),
        "velocity": envs.VelocityTask(random.uniform(0, 2, 50)),
        "way": envs.DirectionTask(random.choice([-1.0, 1.0], 50)),
        "direction": envs.DirectionTask(np.stack([np.cos(angle), np.sin(angle)], -1)),
        "factors": {"mass": np.exp(random.normal(size=(50, 7))), "gain": random.uniform(1, 1.2, (50, 6))},
        "one value": {"mass": np.ones(50)},
        "bare": random.normal(size=50),
        "key": jax.random.split(jax.random.key(0), 50),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_task_has_a_picture(kind, tmp_path):
    task_pictures.draw_tasks(kinds()[kind], tmp_path / "tasks.png", title=kind)
    assert Image.open(tmp_path / "tasks.png").convert("L").getextrema()[1] == 255


def test_factors_have_a_logarithmic_axis_and_targets_none(monkeypatch, tmp_path):
    scales = {}

    def keep(axes, name, values, draw=task_pictures._histogram):
        draw(axes, name, values)
        scales[name] = axes.get_xscale()

    monkeypatch.setattr(task_pictures, "_histogram", keep)
    for kind in ("factors", "velocity"):
        task_pictures.draw_tasks(kinds()[kind], tmp_path / "tasks.png", title="")
    assert scales == {"mass": "log", "gain": "linear", "target": "linear"}


def test_a_split_is_passed_on_and_described(monkeypatch, tmp_path, capsys):
    asked = []
    card, env = envs.card("point-nav"), envs.make("point-nav", horizon=2)
    monkeypatch.setattr(envs, "make", lambda name, **options: asked.append(options) or env)
    script.main(["point-nav", "--split", "test", "--tasks", "2", "--folder", str(tmp_path)])
    script.main(["point-nav", "--tasks", "2", "--folder", str(tmp_path)])
    assert [options.get("split") for options in asked] == ["test", "train"]
    assert re.search(r"split ood +g uniform", capsys.readouterr().out)
    assert {path.name for path in tmp_path.iterdir()} == {f"{card.name}.png", f"{card.name}-test.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pointnav"], "'pointnav'.*did you mean 'point-nav'"),
        (["point-nav", "--env-option", "goal_rnage=3"], "'goal_rnage'.*goal_range"),
        (["point-nav", "--env-option", "goal_range"], "NAME=VALUE"),
        (["point-nav", "--tasks", "1"], "tasks is 1.*at least 2"),
        (["point-nav", "--episodes", "0"], "episodes is 0"),
        (["point-nav", "--backend", "spring"], "has no physics"),
        (["point-nav", "--folder", "file"], "file"),
        ([], "missing from show_tasks.py: STR task family.*[(]required[)] [(]--help"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.run(script.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error, re.IGNORECASE), error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_action_scale_is_that_of_the_version_or_the_option(monkeypatch, tmp_path):
    seen = []

    def keep(key, env, tasks, *, action_std, episodes):
        seen.append(action_std)
        return {"random": np.arange(2.0), "zero": np.zeros(2)}

    monkeypatch.setattr(show_tasks, "trivial_returns", keep)
    for extra in ([], ["--env-option", "action_scale=10"]):
        script.main(["point-nav", "--tasks", "2", "--folder", str(tmp_path), *extra])
    assert seen == [1.0, 10.0]
    assert "action_scale" in dataclasses.asdict(envs.card("point-nav"))["options"]
