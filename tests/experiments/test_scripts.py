import dataclasses
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from metarl_jax import algorithms
from metarl_jax.runs import config as configs
from metarl_jax.runs import run as runs
from metarl_jax.runs.config.arguments import defaults, parse
from metarl_jax.runs.config.file import read_config
from metarl_jax.runs.console import cli
from tests.experiments.scripts import EXPERIMENTS, TINY, load


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "prepare_jax", lambda task=None: None)
        assert cli.run(load("train").main, [*TINY, "--folder", str(folder)]) == 0
    return folder


def test_train_evaluates_and_says_where_everything_is(trained):
    assert {"metrics.csv", "evaluation.json", "adaptation.png", "learning_curve.png"} <= {
        p.name for p in trained.iterdir()
    }
    report = json.loads((trained / "evaluation.json").read_text())
    assert report["inner_lr"] == [0.1, 0.05]
    assert report["task"].startswith("gaussian-bandit")
    assert np.isfinite([row["per_task"] for row in report["rows"].values()]).all()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        ["--algorithm", "meta-sgd", "--baseline", "value_network"],
        pytest.param(["--algorithm", "e-maml", "--eval-steps", "0"], marks=pytest.mark.slow),
        pytest.param(["--algorithm", "self-tuning", "--tuned", "discount", "lambda_"], marks=pytest.mark.slow),
    ],
)
def test_theta_may_hold_more_than_the_policy(script, tmp_path, options):
    """Learned rates and a critic are checkpointed, resumed and evaluated; credit does not ask evaluation for steps."""
    folder = tmp_path / "run"
    assert script("train", *TINY, *options, "--folder", folder)[0] == 0
    assert script("train", "--resume", "--override", "--folder", folder, "--iterations", "4")[0] == 0
    assert len((folder / "metrics.csv").read_text().splitlines()) == 5
    report = json.loads((folder / "evaluation.json").read_text())
    assert np.isfinite([row["per_task"] for row in report["rows"].values()]).all()


def test_evaluate_takes_more_steps_at_other_rates(script, trained):
    before = (trained / "evaluation.json").read_bytes()
    status, out, err = script("evaluate", trained, "--steps", "4", "--inner-lr", "0.2", "0.1", "--tasks", "2")
    assert status == 0, err
    assert "gain" in out
    assert (trained / "evaluation.json").read_bytes() == before
    report = json.loads((trained / "evaluation-rates-0.2_0.1.json").read_text())
    assert report["inner_lr"] == [0.2, 0.1, 0.05, 0.025]
    assert report["rows"]["adapted"]["steps"] == [0, 1, 2, 3, 4]
    assert len(report["rows"]["adapted"]["per_task"]) == 2


def test_evaluate_takes_stages_of_another_size(script, trained):
    before = (trained / "evaluation.json").read_bytes()
    status, out, err = script("evaluate", trained, "--episodes", "5", "--stage-steps", "3", "--steps", "2")
    assert status == 0, err
    assert "3 steps, at most 5 episodes" in out
    assert "the same: 5 episodes, 3 steps" in out.replace("\n", "")
    assert (trained / "evaluation.json").read_bytes() == before
    assert (trained / "adaptation-5-episodes-3-steps.png").exists()
    report = json.loads((trained / "evaluation-5-episodes-3-steps.json").read_text())
    assert (report["episodes_per_step"], report["stage_steps"]) == (5, 3)
    row = report["rows"]["adapted"]  # a pull is an episode of one step
    assert row["episodes"] == row["environment_steps"] == [0, 3, 6]
    assert row["diverged_episodes"] == [0, 0, 0]


def test_a_budget_without_an_inner_step_is_short_of_nothing(script, trained):
    status, out, err = script("evaluate", trained, "--episodes", "5", "--stage-steps", "3", "--steps", "0")
    assert status == 0, err
    assert "not every stage" not in out


def test_evaluate_measures_modes(script, trained):
    sampled = json.loads((trained / "evaluation.json").read_text())
    status, out, err = script("evaluate", trained, "--deterministic")
    assert status == 0, err
    assert "measured by modes" in out.replace("\n", " ")
    assert json.loads((trained / "evaluation.json").read_text()) == sampled
    assert (trained / "adaptation-deterministic.png").exists()
    report = json.loads((trained / "evaluation-deterministic.json").read_text())
    assert (sampled["deterministic"], report["deterministic"]) == (False, True)
    assert report["rows"]["adapted"]["per_task"] != sampled["rows"]["adapted"]["per_task"]


@pytest.mark.thorough
def test_a_policy_of_bounded_actions_is_trained_and_evaluated_by_modes(script, tmp_path):
    folder = tmp_path / "beta"
    assert script("train", *TINY, "--distribution", "beta", "--folder", folder)[0] == 0
    assert json.loads((folder / "config.json").read_text())["policy"]["distribution"] == "beta"
    assert script("evaluate", folder, "--deterministic")[0] == 0
    report = json.loads((folder / "evaluation-deterministic.json").read_text())
    assert np.isfinite(report["rows"]["adapted"]["per_task"]).all()


def test_an_unknown_distribution_is_refused(script, tmp_path):
    status, _, err = script("train", *TINY, "--distribution", "betta", "--folder", tmp_path / "none")
    assert status == 2
    assert "unknown distribution 'betta': did you mean 'beta'" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--episodes", "0"], "episodes is 0"),
        (["--stage-steps", "0"], "stage_steps is 0"),
        (["--stage-steps", "50"], "stage_steps is 50, and .* choose fewer, or more episodes"),
        (["--episodes", "1000000000"], "the evaluation"),
    ],
)
def test_stages_that_cannot_be_are_refused(script, trained, options, message):
    before = {path.name for path in trained.iterdir()}
    status, _, err = script("evaluate", trained, *options)
    assert status == 2
    assert re.search(message, err)
    assert {path.name for path in trained.iterdir()} == before


@pytest.mark.thorough
def test_another_size_of_a_stage_has_the_baseline_of_training(script, tmp_path, monkeypatch):
    """Of three steps nothing can be fitted, so that of 60 nothing is; and one that was named stays."""
    built, build = [], configs.build
    for options, baseline in [([], "zero"), (["--baseline", "linear_time"], "linear_time")]:
        folder = tmp_path / baseline
        episodes = "1" if baseline == "zero" else "5"
        sizes = ["--horizon", "3", "--episodes", episodes, "--iterations", "1", "--tasks", "2", "--eval-tasks", "2"]
        assert (
            script("train", "--task", "point-nav", "--algorithm", "maml", *sizes, *options, "--folder", folder)[0] == 0
        )
        with monkeypatch.context() as patch:
            patch.setattr(configs, "build", lambda config, **given: built.append(config) or build(config, **given))
            assert script("evaluate", folder, "--episodes", "20", "--steps", "1")[0] == 0
        assert (built[-1].algorithm_options.episodes, built[-1].algorithm_options.baseline) == (20, baseline)


@pytest.mark.thorough
def test_a_memory_has_stages_of_one_episode(script, tmp_path, monkeypatch):
    from metarl_jax.runs.pictures import plots

    drawn = []
    monkeypatch.setattr(plots, "learning_curve", lambda *_, unit, **__: drawn.append(unit))
    folder = tmp_path / "memory"
    options = ["--algorithm", "rl2", "--episodes", "1", "--eval-tasks", "2", "--folder", folder]
    sizes = ["--horizon", "3", "--iterations", "1", "--tasks", "2"]
    assert script("train", "--task", "bernoulli-bandit", *sizes, *options)[0] == 0
    assert script("train", *TINY, "--folder", tmp_path / "steps")[0] == 0
    assert drawn == ["episode", "inner step"]
    status, _, err = script("evaluate", folder, "--episodes", "5")
    assert status == 2
    assert "a stage of rl2 is one episode; leave episodes out" in err


def test_resume_takes_its_configuration_from_the_folder(script, trained, monkeypatch):
    ran = []
    monkeypatch.setattr(runs, "train_run", lambda config, console, **options: ran.append((config, options)))
    status, out, err = script("train", "--folder", trained, "--resume", "--override", "--iterations", "5")
    assert status == 0, err
    assert "configuration of" in out
    assert ran == [
        (
            dataclasses.replace(read_config(trained), iterations=5),
            {"resume": True, "override": True, "debug_nans": False, "lock": "kernel"},
        )
    ]


def test_without_arguments_the_device_chooses(monkeypatch):
    """README's first command has none."""
    assert parse([]).config.preset == "cheetah-dir-cpu"
    for platform, name in (("cpu", "cheetah-dir-cpu"), ("gpu", "cheetah-dir"), ("tpu", "cheetah-dir")):
        monkeypatch.setattr("jax.default_backend", lambda platform=platform: platform)
        config, why = defaults(["--seed", "3"])
        assert config.preset == name
        assert name in why
        assert platform.upper() in why
    assert defaults(["--task", "point-nav"])[0].preset is None
    assert "point-nav-finn2017" in defaults(["--task", "point-nav"])[1]


def test_the_help_of_train_names_every_option(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent), "COLUMNS": "200"}
    command = [sys.executable, EXPERIMENTS / "train.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    options = {option for algorithm in algorithms.names() for option in algorithms.options(algorithm)}
    for option in options - {"policy", "outer_optimizer", "task_sampler"}:  # objects, which no command line has
        assert f"--{option.replace('_', '-').removesuffix('-')}" in done.stdout
