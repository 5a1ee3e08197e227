"""Sweeps: plans, bad input, and what is started, skipped and refused."""

import csv
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from metarl_jax.commands import sweep as script
from metarl_jax.runs.console import cli
from metarl_jax.runs.storage.folder import only_writer
from metarl_jax.runs.sweeps import jobs as sweep_jobs
from metarl_jax.runs.sweeps import plans as sweeps
from tests.runs.sweep_runs import BASE, GRID, NAMES, Fake, report, write_run

# --- the plan --------------------------------------------------------------------------------------------------------


def test_a_grid_is_the_product_of_its_values():
    plan = sweeps.plan(BASE, sweeps.grid(GRID[1:]), [], seeds=3)
    assert list(plan.members) == NAMES
    words = ["--inner-lr", "0.2", "--outer-lr", "0.01", "--seeds", "3", "--traced", "inner_lr", "outer_lr"]
    assert plan.arguments(NAMES[2], Path("s")) == [*BASE, *words, "--folder", "s/inner_lr=0.2,outer_lr=0.01"]


def test_words_switches_and_keywords_reach_the_command_line():
    grid = sweeps.grid(["hidden=8 8,4", "reveal_task=True,False", "lambda=0.9", "normalized=False", "task=point-nav"])
    plan = sweeps.plan([], grid, [])
    configs = sweeps.check(plan, Path("s"))
    assert list(configs)[1] == "hidden=8-8,reveal_task=False,lambda=0.9,normalized=False,task=point-nav"
    shown = [(c.policy.hidden, c.reveal_task, c.algorithm_options.lambda_) for c in configs.values()]
    assert shown == [((8, 8), True, 0.9), ((8, 8), False, 0.9), ((4,), True, 0.9), ((4,), False, 0.9)]
    assert {c.algorithm_options.normalized for c in configs.values()} == {False}


def test_folder_names_are_distinct_and_no_paths():
    members = sweeps.plan(BASE, sweeps.grid(["env_option=a=1/2,a=1_2", "wandb=" + "x" * 200]), []).members
    assert len(members) == 2
    assert all(len(name) < 130 and "/" not in name for name in members)


def test_draws_lie_in_their_ranges_and_grow_at_the_end():
    specs = ["outer_lr=log:1e-4:1e-2", "tasks=int:5:7", "clip=0.1:0.5", "baseline=zero,linear_time"]
    drawn = sweeps.draws(specs, 300, seed=1)
    assert drawn[:10] == sweeps.draws(specs, 10, seed=1)
    assert drawn[:10] != sweeps.draws(specs, 10, seed=2)
    assert {options["tasks"] for options in drawn} == {"5", "6", "7"}
    assert {options["baseline"] for options in drawn} == {"zero", "linear_time"}
    rates = np.array([float(options["outer_lr"]) for options in drawn])
    clips = np.array([float(options["clip"]) for options in drawn])
    assert ((rates >= 1e-4) & (rates <= 1e-2)).all()
    assert ((clips >= 0.1) & (clips <= 0.5)).all()
    # Means of uniform variables, at five standard errors of a uniform one.
    assert abs(np.log10(rates).mean() + 3) < 5 * 2 / np.sqrt(12 * 300)
    assert abs(clips.mean() - 0.3) < 5 * 0.4 / np.sqrt(12 * 300)


def test_every_draw_meets_every_grid_point():
    members = sweeps.plan(BASE, sweeps.grid(["inner_lr=0.1,0.2"]), sweeps.draws(["outer_lr=0.1:0.2"], 3, 0)).members
    rates = [options["outer_lr"] for options in members.values()]
    assert len(members) == 6
    assert rates[:3] == rates[3:]


def test_another_plan_is_told_apart():
    plan = sweeps.plan(BASE, sweeps.grid(GRID[1:]), [])
    assert sweeps.differences(plan, plan) == []
    other = sweeps.plan([*BASE, "--tasks", "4"], sweeps.grid(["inner_lr=0.1,0.3", GRID[2]]), [], seeds=2)
    changed = sweeps.differences(plan, other)
    assert changed[0].endswith("--iterations 3, now --task gaussian-bandit --algorithm maml --iterations 3 --tasks 4")
    assert changed[1:] == [
        "seeds was 1, now 2",
        f"no longer among the members: {NAMES[2]}, {NAMES[3]}",
        "new among the members: inner_lr=0.3,outer_lr=0.01, inner_lr=0.3,outer_lr=0.02",
    ]


# --- bad input -------------------------------------------------------------------------------------------------------

LONE = ["--task", "point-nav"]
BAD = {
    "nothing to sweep": ([], LONE, "nothing to sweep.*--grid"),
    "no folder": (None, LONE, "--folder"),
    "unknown own flag": (["--gird", "clip=0.1"], LONE, "--gird.*did you mean --grid"),
    "unknown option": (
        ["--grid", "outer_ler=0.1"],
        LONE,
        "unknown option of train.py 'outer_ler': did you mean 'outer",
    ),
    "no values": (["--grid", "outer_lr"], LONE, "--grid is 'outer_lr'; it must be NAME=VALUES"),
    "an empty value": (["--grid", "outer_lr=0.1,,0.2"], LONE, "empty value"),
    "a value twice": (["--grid", "outer_lr=0.1,0.1"], LONE, "names 0.1 twice"),
    "one run twice": (["--grid", "outer_lr=0.1,0.10"], LONE, "outer_lr=0.1 and outer_lr=0.10 are the same run"),
    "an option twice": (["--grid", "outer_lr=0.1", "outer-lr=0.2"], LONE, "'outer_lr' twice"),
    "both kinds": (["--grid", "clip=0.1", "--random", "clip=0.1:0.2"], LONE, "clip is in --grid and in --random"),
    "swept and fixed": (["--grid", "clip=0.1"], [*LONE, "--clip=0.2"], "clip is swept and also fixed"),
    "its folder": (["--grid", "folder=a,b"], LONE, "'folder', which a sweep sets itself"),
    "its seeds": (["--grid", "seed=0,1"], LONE, "--seeds R"),
    "folder after": (["--grid", "clip=0.1"], [*LONE, "--folder", "x"], "--folder stands after the --"),
    "seeds after": (["--grid", "clip=0.1"], [*LONE, "--seeds", "2"], "write --seeds R before"),
    "no task": (["--grid", "clip=0.1"], [], "neither --task nor --preset"),
    "a bad value": (["--grid", "clip=0.1,many"], LONE, "member clip=many.*--clip.*'many'"),
    "a value out of range": (["--grid", "tasks=5,0"], LONE, "member tasks=0: tasks is 0"),
    "a foreign option": (["--grid", "max_kl=0.1"], LONE, "member max_kl=0.1: .*'max_kl'"),
    "a bad base": (["--grid", "clip=0.1"], [*LONE, "--taks", "3"], "--taks.*did you mean"),
    "unknown task": (["--grid", "task=point-nav,point-nva"], [], "member task=point-nva.*did you mean 'point-nav"),
    "no range": (["--random", "clip=0.1:"], LONE, "--random is 'clip=0.1:'; it must be LOW:HIGH"),
    "an unknown range": (["--random", "clip=lgo:0.1:0.2"], LONE, "it must be LOW:HIGH, log:LOW:HIGH or int"),
    "an empty range": (["--random", "clip=0.2:0.1"], LONE, "with LOW < HIGH"),
    "an infinite range": (["--random", "clip=0.2:inf"], LONE, "with LOW < HIGH"),
    "a logarithm of zero": (["--random", "clip=log:0:0.1"], LONE, "above 0 for a logarithm"),
    "broken whole numbers": (["--random", "tasks=int:1:2.5"], LONE, "numbers without a fraction"),
    "whole numbers": (["--random", "tasks=5:40"], LONE, "tasks is a whole number; write tasks=int:5:40"),
    "a range beyond 64 bits": (["--random", f"tasks=int:1:{2**63}"], LONE, "within 64 bits"),
    "too many samples": (["--random", "clip=0.1:0.2", "--samples", "10001"], LONE, "10,001.*at most 10,000 members"),
    "too many combinations": (
        ["--grid", *(f"{name}={','.join(map(str, range(1, 102)))}" for name in ("tasks", "episodes"))],
        LONE,
        "10,201.*at most 10,000 members",
    ),
    "too few combinations": (["--random", "tasks=int:1:2", "--samples", "5"], LONE, "about 2 combinations only"),
    "no samples": (["--random", "clip=0.1:0.2", "--samples", "0"], LONE, "samples is 0"),
    "samples of nothing": (["--grid", "clip=0.1", "--samples", "3"], LONE, "there is no --random"),
    "a negative seed": (["--random", "clip=0.1:0.2", "--sweep-seed", "-1"], LONE, "sweep_seed is -1"),
    "no seeds": (["--grid", "clip=0.1", "--seeds", "0"], LONE, "seeds is 0"),
    "none at once": (["--grid", "clip=0.1", "--at-once", "0"], LONE, "at_once is 0"),
    "traced after": (["--grid", "clip=0.1"], [*LONE, "--traced", "outer_lr"], "--traced stands after the --"),
    "no jobs": (["--grid", "clip=0.1", "--jobs", "0"], LONE, "jobs is 0"),
    "an unknown cluster": (["--grid", "clip=0.1", "--cluster", "slrum"], LONE, "'slrum'.*'local', 'slurm'"),
    "slurm's without slurm": (["--grid", "clip=0.1", "--slurm", "time=3"], LONE, "add --cluster slurm"),
    "no time": (["--grid", "clip=0.1", "--cluster", "slurm"], LONE, "--slurm time=MINUTES"),
    "unknown parameter": (
        ["--grid", "clip=0.1", "--cluster", "slurm", "--slurm", "tmie=3"],
        LONE,
        "'tmie': did you mean 'time'",
    ),
    "no slurm": (["--grid", "clip=0.1", "--cluster", "slurm", "--slurm", "time=3"], LONE, "no srun here"),
}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs the script in an empty folder; gives status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "prepare_jax", lambda task=None: None)  # it changes the process for good

    def run(*arguments):
        capsys.readouterr()
        status = cli.run(script.main, [str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_touches_nothing(call, tmp_path, case):
    own, base, message = BAD[case]
    folder = [] if own is None else ["--folder", "s"]
    status, out, err = call(*folder, *(own or []), "--", *base)
    assert status == 2, (out, err)
    assert re.search(message, err), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# --- what is run -----------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch):
    """Instead of processes: whoever is started finishes, but for `failing`; `started` says what was."""

    class Engine:
        started, failing = [], set()

        def __init__(self, folder, command, *, slurm, sharing):
            assert command == [sys.executable, "-P", "-m", "metarl_jax.commands.sweep_members", "s", "kernel", "0"]
            self.folder = folder

        def start(self, names):
            Engine.started.append(names)
            for name in {*names} - Engine.failing:
                write_run(self.folder / name, report([-3.0, -2.0, -1.0]))
            return Fake("stopped at iteration 1: 'loss' is nan", begun=names)

    monkeypatch.setattr(sweep_jobs, "Engine", Engine)
    return Engine


def test_a_sweep_goes_on_with_what_is_missing(call, engine, tmp_path):
    engine.failing.add(NAMES[1])
    command = ["--folder", "s", *GRID, "--jobs", "2", "--", *BASE]
    status, out, err = call(*command)
    assert (status, err) == (1, "error: 1 of 4 members failed; start the same command to try them again\n")
    assert engine.started == [NAMES[::2], NAMES[1::2]], "two processes share the members of one program"
    assert "started  inner_lr=0.1,outer_lr=0.01 and 1 more by the same program, 1 running, 2 waiting" in out
    assert re.search(r"failed +inner_lr=0.1,outer_lr=0.02 after 0.0 min, \d to go: stopped at iteration 1", out)
    with (tmp_path / "s" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[-1]["status"], rows[-1]["error"]) == ("failed", "stopped at iteration 1: 'loss' is nan")
    engine.started.clear()
    engine.failing.clear()
    status, out, err = call(*command)
    assert (status, err) == (0, "")
    assert "4 members, 3 finished before" in out
    assert engine.started == [[NAMES[1]]]
    assert call(*command)[0] == 0
    assert len(engine.started) == 1
    # More iterations are another plan.
    status, _, err = call(*command[:-1], "5")
    assert status == 2
    assert re.search("s holds another sweep: after the -- stood .*3, now .*5; choose another --folder", err)


def test_a_folder_that_is_no_sweep_is_refused(call, engine, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes").touch()
    status, _, err = call("--folder", "s", *GRID, "--", *BASE)
    assert (status, err) == (2, "error: s exists and holds no sweep.json, so it is no sweep; choose another --folder\n")
    (tmp_path / "s" / "sweep.json").write_text("{")
    status, _, err = call("--folder", "s", *GRID, "--", *BASE)
    assert status == 2
    assert "s/sweep.json is damaged" in err
    assert engine.started == []


def test_one_sweep_at_a_time(call, engine, tmp_path):
    assert call("--folder", "s", *GRID, "--", *BASE)[0] == 0
    with only_writer(tmp_path / "s"):
        status, _, err = call("--folder", "s", *GRID, "--", *BASE)
        assert (status, f"s is in use by process {os.getpid()}" in err) == (2, True)
    assert call("--folder", "s", *GRID, "--", *BASE)[0] == 0
