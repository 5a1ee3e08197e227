import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metarl_jax import algorithms
from metarl_jax.runs import cli
from metarl_jax.runs import run as runs
from metarl_jax.runs.arguments import defaults
from metarl_jax.runs.config_file import read_config

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = [
    *("--task", "gaussian-bandit", "--algorithm", "maml", "--iterations", "3", "--checkpoint-every", "2"),
    *(
        "--tasks",
        "2",
        "--episodes",
        "4",
        "--hidden",
        "2",
        "--inner-lr",
        "0.1",
        "--eval-tasks",
        "3",
        "--eval-steps",
        "2",
    ),
]


def load(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Runs a script in an empty folder; gives status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "prepare_jax", lambda: None)  # it changes the process for good

    def call(name, *arguments):
        capsys.readouterr()
        try:
            status = cli.run(load(name).main, [str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "prepare_jax", lambda: None)
        assert cli.run(load("train").main, [*TINY, "--folder", str(folder)]) == 0
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BAD = {
    "unknown task": (["--task", "reacher-gaol"], "'reacher-gaol'.*did you mean.*reacher-goal"),
    "unknown version": (["--task", "point-nav@finn2018"], "'point-nav@finn2018'.*point-nav@finn2017"),
    "unknown algorithm": (["--task", "point-nav", "--algorithm", "prompt"], "'prompt'.*did you mean 'promp'"),
    "unknown backend": (["--task", "reacher-goal", "--backend", "srping"], "'srping'.*spring"),
    "backend without Brax": (["--task", "point-nav", "--backend", "spring"], "'spring'.*point-nav"),
    "unknown preset": (["--preset", "reacher"], "unknown preset 'reacher'.*reacher-goal"),
    "preset without name": (["--preset"], "--preset.*expected one argument"),
    "unknown flag": (["--taks", "point-nav"], "--taks.*did you mean --task"),
    "not a number": ([*TINY, "--tasks", "many"], "--tasks.*'many'"),
    "foreign option": ([*TINY, "--clip", "0.2"], "option of maml 'clip'.*choose from"),
    "unknown option": ([*TINY, "--option", "outer_lrr=0.2"], "'outer_lrr'.*'outer_lr'"),
    "malformed option": ([*TINY, "--option", "outer_lr"], "'outer_lr'.*NAME=VALUE"),
    "unknown environment option": ([*TINY, "--env-option", "goal_sdt=2"], "'goal_sdt'.*goal_std"),
    "unknown surrogate": ([*TINY, "--surrogate", "ratio"], "'ratio'.*likelihood_ratio"),
    "unknown advantage": ([*TINY, "--advantage", "gea"], "'gea'.*gae"),
    "unknown activation": ([*TINY, "--activation", "rleu"], "'rleu'.*relu"),
    "zero iterations": ([*TINY, "--iterations", "0"], "iterations is 0.*at least 1"),
    "zero tasks": ([*TINY, "--tasks", "0"], "tasks is 0"),
    "negative episodes": ([*TINY, "--episodes", "-1"], "episodes is -1"),
    "zero horizon": ([*TINY, "--horizon", "0"], "horizon is 0"),
    "zero hidden": ([*TINY, "--hidden", "0"], "hidden is 0"),
    "negative rate": ([*TINY, "--inner-lr", "-0.1"], "-0.1"),
    "one evaluation task": ([*TINY, "--eval-tasks", "1"], "eval_tasks is 1.*at least 2"),
    "zero checkpoints kept": ([*TINY, "--keep", "0"], "keep is 0"),
    "negative seed": ([*TINY, "--seed", "-1"], "seed is -1"),
    "burn-in outside the trial": ([*TINY, "--burn-in", "2"], "burn_in is 2.*1"),
    "negative steps": ([*TINY, "--adaptation-steps", "-1"], "adaptation_steps is -1"),
    "nothing to resume": ([*TINY, "--folder", "nowhere", "--resume"], "nowhere does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_touches_nothing(script, tmp_path, case):
    arguments, message = BAD[case]
    status, out, err = script("train", *arguments)
    assert status == 2, (out, err)
    assert re.search(message, err), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_train_evaluates_and_says_where_everything_is(trained):
    assert {"metrics.csv", "evaluation.json", "adaptation.png", "learning_curve.png"} <= {
        p.name for p in trained.iterdir()
    }
    report = json.loads((trained / "evaluation.json").read_text())
    assert report["inner_lr"] == [0.1, 0.1]
    assert report["task"].startswith("gaussian-bandit")
    assert np.isfinite([row["per_task"] for row in report["rows"].values()]).all()


@pytest.mark.parametrize(
    "options",
    [
        ["--algorithm", "meta-sgd", "--baseline", "value_network"],
        pytest.param(["--algorithm", "e-maml", "--eval-steps", "0"], marks=pytest.mark.slow),
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
    status, out, err = script("evaluate", trained, "--steps", "4", "--inner-lr", "0.2", "0.1", "--tasks", "2")
    assert status == 0, err
    assert "gain" in out
    report = json.loads((trained / "evaluation.json").read_text())
    assert report["inner_lr"] == [0.2, 0.1, 0.1, 0.1]
    assert report["rows"]["adapted"]["steps"] == [0, 1, 2, 3, 4]
    assert len(report["rows"]["adapted"]["per_task"]) == 2


def test_existing_folders_and_other_configurations_are_refused(script, trained):
    before = contents(trained)
    for arguments, message in (
        (["--folder", trained], "exists.*--resume"),
        (["--folder", trained, "--resume", "--seed", "3"], "seed was 0, now 3"),
        (["--folder", trained, "--resume", "--tasks", "5"], "tasks was 2, now 5"),
    ):
        status, _, err = script("train", *TINY, *arguments)
        assert status == 2
        assert re.search(message, err), err
        assert err.count("\n") == 1
    assert contents(trained) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        ([], "[Rr]un"),
        (["RUN", "--tasks", "1"], "eval_tasks is 1"),
        (["RUN", "--steps", "-1"], "eval_steps is -1"),
        (["RUN", "--inner-lr", "-1"], "-1"),
        (["RUN", "--stesp", "1"], "--stesp.*did you mean --steps"),
    ],
)
def test_evaluate_refuses_bad_input(script, trained, arguments, message):
    before = contents(trained)
    status, _, err = script("evaluate", *(trained if argument == "RUN" else argument for argument in arguments))
    assert status == 2
    assert re.search(message, err), err
    assert err.count("\n") == 1
    assert contents(trained) == before


def test_resume_takes_its_configuration_from_the_folder(script, trained, monkeypatch):
    ran = []
    monkeypatch.setattr(runs, "train_run", lambda config, console, **options: ran.append((config, options)))
    status, out, err = script("train", "--folder", trained, "--resume", "--override", "--iterations", "5")
    assert status == 0, err
    assert "configuration of" in out
    assert ran == [
        (
            dataclasses.replace(read_config(trained), iterations=5),
            {"resume": True, "override": True, "debug_nans": False},
        )
    ]


def test_without_arguments_the_device_chooses(monkeypatch):
    for platform, name in (("cpu", "reacher-goal"), ("gpu", "cheetah-dir"), ("tpu", "cheetah-dir")):
        monkeypatch.setattr("jax.default_backend", lambda platform=platform: platform)
        config, why = defaults(["--seed", "3"])
        assert config.preset == name
        assert name in why
        assert platform.upper() in why
    assert defaults(["--task", "point-nav"])[0].preset is None
    assert "point-nav-finn2017" in defaults(["--task", "point-nav"])[1]


@pytest.mark.parametrize("name", ["train", "evaluate", "render", "show_tasks", "sweep"])
def test_help_is_complete_quiet_and_loads_no_simulator(name, tmp_path):
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print('loaded', {'brax', 'mujoco', 'orbax', 'matplotlib', 'submitit'} & set(sys.modules), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code, EXPERIMENTS / f"{name}.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    assert done.stderr == "loaded set()\n"
    assert done.stdout.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []
    if name == "train":
        options = {option for algorithm in algorithms.names() for option in algorithms.options(algorithm)}
        for option in options - {"policy"}:
            assert f"--{option.replace('_', '-').removesuffix('-')}" in done.stdout


def test_a_user_error_leaves_the_process_with_status_2(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent)}
    arguments = [sys.executable, EXPERIMENTS / "train.py", "--task", "point-nav", "--algorithm", "mamll"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown algorithm 'mamll': did you mean 'maml'")
    assert done.stderr.count("\n") == 1
