"""Results of made-up run folders with known numbers, as a table and as pictures."""

import csv

import numpy as np
import pytest

from metarl_jax.runs.config import EvaluationConfig, TrainConfig
from metarl_jax.runs.pictures import plots
from metarl_jax.runs.sweeps import plans as sweeps
from metarl_jax.runs.sweeps import results as sweep_results
from tests.runs.sweep_runs import BASE, report, write_run


def test_results_are_those_of_the_run_folders(tmp_path):
    plan = sweeps.plan(BASE, sweeps.grid(["inner_lr=0.1,0.2,0.3,0.4,0.5,0.6"]), [])
    names = list(plan.members)
    configs = dict.fromkeys(names, TrainConfig(iterations=3))
    configs[names[5]] = TrainConfig(iterations=3, evaluation=EvaluationConfig(eval_split="ood"))
    write_run(tmp_path / names[0], report([-3.0, -2.0, -1.0]))
    write_run(tmp_path / names[1], report([-9.0, -1.5, 0.0], steps=2))
    write_run(tmp_path / names[2], report([-9.0, -0.5, 0.0], iteration=2), iterations=2)  # wants one more
    write_run(tmp_path / names[3])
    write_run(tmp_path / names[5], report([-4.0, -2.5, 0.0], steps=7), split="ood")  # evaluated at two steps
    found = sweep_results.collect(plan, tmp_path, configs, {names[3]: "disk full"})
    assert [result.name for result in found[:3]] == [names[1], names[5], names[0]]
    status = {result.name: result.status for result in found}
    assert list(map(status.get, names)) == ["finished", "finished", "stopped", "failed", "not started", "finished"]
    first = next(result for result in found if result.name == names[0])
    assert first[4:7] == ((-3.0, 0.5), (-2.0, 0.5), (1.0, 0.25))
    assert (first.iterations, first.environment_steps, first.minutes) == (3, 60, 1.5)
    assert next(result for result in found if result.name == names[5]).after.mean == 0.0
    sweep_results.write(found, tmp_path / "results.csv", seeds=1)
    with (tmp_path / "results.csv").open() as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    assert list(rows) == [result.name for result in found]
    assert (rows[names[0]]["inner_lr"], rows[names[0]]["after_mean"]) == ("0.1", "-2.0")
    assert (rows[names[3]]["status"], rows[names[3]]["error"], rows[names[3]]["after_mean"]) == (
        "failed",
        "disk full",
        "",
    )
    assert rows[names[2]]["iterations"] == "2"
    assert sweep_results.table(found, "s", 1).row_count == 6


def test_with_seeds_the_error_is_that_of_the_seeds_means(tmp_path):
    plan = sweeps.plan(BASE, sweeps.grid(["inner_lr=0.1"]), [], seeds=3)
    (name,) = plan.members
    ends = (1.0, 2.0, 6.0)
    per_seed = [{"seed": seed, "rows": report([0.0, end, 0.0])["rows"]} for seed, end in enumerate(ends)]
    write_run(tmp_path / name, report([0.0, 3.0, 0.0], per_seed=per_seed))
    (result,) = sweep_results.collect(plan, tmp_path, {name: TrainConfig(iterations=3)})
    assert result.after == pytest.approx((3.0, np.sqrt(7.0 / 3.0)))  # variance ((−2)² + (−1)² + 3²)/2 = 7
    assert result.gain == pytest.approx(result.after)
    assert result.before == (0.0, 0.0)


def test_a_row_that_was_cut_off_does_not_count(tmp_path):
    plan = sweeps.plan(BASE, sweeps.grid(["inner_lr=0.1"]), [])
    (name,) = plan.members
    write_run(tmp_path / name)
    with (tmp_path / name / "metrics.csv").open("a") as file:
        file.write("3")
    (result,) = sweep_results.collect(plan, tmp_path, {name: TrainConfig(iterations=9)})
    assert (result.status, result.environment_steps) == ("stopped", 60)


@pytest.mark.parametrize(
    "text", ["", "[" * 10**5, "[]", '{"iteration": 9}', '{"iteration": 9, "rows": 3}', '{"iteration": 9, "rows": []}']
)
def test_an_evaluation_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    assert sweep_results.report(tmp_path, TrainConfig(iterations=9)) is None


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ({"num_tasks": 40, "seed": 0, "inner_lr": [0.1, 0.05], "deterministic": False}, True),
        ({"num_tasks": 2}, False),
        ({"seed": 7}, False),
        ({"inner_lr": [0.5, 0.25]}, False),
        ({"deterministic": True}, False),
    ],
)
def test_an_evaluation_with_other_settings_is_not_the_runs_own(tmp_path, changed, counts):
    write_run(tmp_path / "run", report([-3.0, -2.0, -1.0], **changed))
    assert (sweep_results.report(tmp_path / "run", TrainConfig(iterations=3)) is not None) == counts


@pytest.mark.parametrize(
    ("told", "asked", "counts"),
    [
        ({"steps": 1}, None, True),  # of an evaluation that does not tell its episodes nothing more is known
        ({"steps": 1}, 1, False),
        ({"steps": 1}, 2, True),
        ({"steps": 1, "episodes_per_step": 20}, None, False),  # three steps are usual
        ({"steps": 1, "episodes_per_step": 1}, None, False),
        ({"steps": 2, "episodes_per_step": 1}, None, True),
        ({"steps": 0, "stages_in_training": 3, "episodes_per_step": 1}, None, True),  # a memory: three episodes
        ({"steps": 0, "stages_in_training": 1, "episodes_per_step": 1}, 2, True),
    ],
)
def test_an_evaluation_of_another_length_is_not_the_runs_own(tmp_path, told, asked, counts):
    write_run(tmp_path / "run", report([-3.0, -2.0, -1.0], **told))
    config = TrainConfig(iterations=3, evaluation=EvaluationConfig(eval_steps=asked))
    assert (sweep_results.report(tmp_path / "run", config) is not None) == counts


@pytest.mark.parametrize(
    ("swept", "panels", "scale"),
    [
        ({"outer_lr": ["0.1", "0.2"] * 7, "algorithm": [name for name in "abcdefg" for _ in "12"]}, 1, "linear"),
        ({"clip": ["0.1", "0.2"]}, 1, "linear"),
        ({"outer_lr": ["0.001", "0.1"], "baseline": ["zero", "none"]}, 1, "log"),
        ({"outer_lr": ["0.001", "0.01", "0.1"], "tasks": ["5", "10"]}, 1, "log"),
        ({"outer_lr": [f"{1 + i}e-4" for i in range(9)], "tasks": [str(20 - i) for i in range(9)]}, 2, "linear"),
        ({"baseline": ["zero", "none"]}, 0, None),
        ({"clip": ["0.1", "0.1"]}, 0, None),
    ],
)
def test_pictures_are_of_numbers(tmp_path, monkeypatch, swept, panels, scale):
    figures = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, file, **_: figures.append(figure))
    points = [dict(zip(swept, values, strict=True)) for values in zip(*swept.values(), strict=False)]
    rows = [(options, float(i), 0.5) for i, options in enumerate(points)]
    assert plots.sweep(rows, tmp_path / "x.png", title="s", error="tasks") == bool(panels)
    assert [len(figure.axes) for figure in figures] == ([panels] if panels else [])
    for figure in figures:
        assert figure.axes[0].get_xscale() == scale
