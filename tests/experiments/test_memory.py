"""Sizes that no memory holds: one line that names the option, status 2, and no folder."""

import re

import numpy as np
import pytest

from metarl_jax.runs.console import cli
from metarl_jax.runs.sweeps import plans as sweeps
from tests.experiments.scripts import TINY, load

HUGE = "2000000000"
POINT = ["--task", "point-nav", "--algorithm", "maml", "--hidden", "4"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([*TINY, "--seeds", HUGE], f"the parameters .*take less of --seeds {HUGE}"),
        ([*TINY, "--tasks", HUGE], f"the episodes .* GiB are there; take less of --tasks {HUGE}, "),
        ([*TINY, "--episodes", HUGE], f"take less of --episodes {HUGE}, "),
        ([*TINY, "--adaptation-steps", HUGE], f"take less of --adaptation-steps {HUGE}, "),
        ([*TINY, "--eval-tasks", HUGE], f"the evaluation .*take less of --eval-tasks {HUGE}"),
        ([*POINT, "--horizon", HUGE], f"take less of --horizon {HUGE}, "),
        ([*TINY, "--hidden", HUGE], f"take less of --hidden {HUGE}"),
        (["--task", "point-nav", "--algorithm", "rl2", "--tasks", HUGE], f"take less of --tasks {HUGE}"),
    ],
)
def test_training_that_no_memory_holds(arguments, named, tmp_path, capsys):
    assert cli.run(load("train").main, [*arguments, "--folder", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not list(tmp_path.iterdir())
    assert re.search(named, line), line


@pytest.mark.thorough
def test_what_only_counts_takes_no_memory(tmp_path):
    folder, options = tmp_path / "run", ("--checkpoint-every", "--keep", "--patience")
    huge = [word for option in options for word in (option, HUGE)]
    assert cli.run(load("train").main, [*TINY, *huge, "--folder", str(folder)]) == 0
    assert len((folder / "metrics.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("option", ["--tasks", "--episodes", "--horizon"])
def test_pictures_of_tasks_that_no_memory_holds(option, tmp_path, capsys):
    arguments = ["point-nav", option, HUGE, "--folder", str(tmp_path / "pictures")]
    assert cli.run(load("show_tasks").main, arguments) == 2
    assert f"take less of {option} {HUGE}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda: sweeps.draws(["outer_lr=0.1:0.2"], 10_001, 0), "--samples has 10,001 combinations"),
        (lambda: sweeps.grid([f"{name}={','.join(map(str, range(100)))}" for name in ("tasks", "seed", "keep")]), "."),
        (lambda: sweeps.plan(["--task", "x"], [{"tasks": "1"}] * 200, [{"keep": "1"}] * 200), "has 40,000"),
    ],
)
def test_a_sweep_of_more_members_than_a_table_shows(ask, named):
    with pytest.raises(ValueError, match=named):
        ask()


def test_an_array_that_numpy_cannot_have_is_one_line(capsys):
    def main(argv):
        np.ones((2**60,), np.uint8)

    assert cli.run(main, []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the machine's memory does not suffice: 1.00 EiB more were asked for; take fewer ")
