"""The page of curves at toy size: what it writes, how it goes on, what it draws."""

import json

import numpy as np
import pytest

from experiments import curves
from metarl_jax.evaluation import iqm_interval
from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import suites

pytestmark = pytest.mark.thorough  # a whole program; its core is that of `test_adaptation`

TOY = ["--families", "point-nav", "--seeds", "2", "--steps", "60", "--eval-tasks", "3", "--eval-episodes", "8"]
SIZES = {"tasks": 2, "episodes": 2, "policy": {"hidden": (2,)}}


@pytest.fixture(autouse=True, scope="module")
def _toys():
    small = suites.FAMILIES["point-nav"]._replace(
        environment={"action_scale": 10.0, "horizon": 3}, gradient=SIZES | {"episodes": 4}, memory=SIZES
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "prepare_jax", lambda task=None: None)
        patch.setitem(suites.FAMILIES, "point-nav", small)
        patch.setitem(suites.ALGORITHMS, "rl2", {"tasks": 2, "memory_size": 2})
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curves")
    curves.main([*TOY, "--algorithms", "maml", "rl2", "--output", str(folder)])
    return folder


def test_every_score_is_kept_on_the_axis_of_episodes(folder):
    rows = json.loads((folder / "curves.json").read_text())["rows"]
    assert [(row["algorithm"], row["episodes"]) for row in rows] == [("maml", [0, 4]), ("rl2", list(range(8)))]
    for row in rows:
        scores = np.array(row["per_task"])
        assert scores.shape == (2, 3, len(row["episodes"]))
        assert np.isfinite(scores).all()
    # Equal environment steps: 2 tasks × 8 episodes × 3 steps, and 2 tasks × 2 episodes × 3 steps.
    assert [row["iterations"] for row in rows] == [60 // 48, 60 // 12]
    assert (folder / "curves.png").stat().st_size > 10_000


def test_the_table_is_of_the_scores(folder):
    rows = json.loads((folder / "curves.json").read_text())["rows"]
    lines = (folder / "curves.md").read_text().splitlines()
    assert "| algorithm | 0 seen | 1 seen | 3 seen | 4 seen | minutes |" in lines
    for row in rows:
        found = iqm_interval(np.array(row["per_task"]))
        (line,) = (line for line in lines if line.startswith(f"| `{row['algorithm']}` |"))
        cells = line.split(" | ")
        for cell, seen in ((1, 0), (3, 3), (4, 4)):
            stage = seen if row["algorithm"] == "rl2" else seen // 4  # φ of maml is still that of the start at 3
            assert cells[cell] == f"{found.estimate[stage]:.2f} ({found.low[stage]:.2f} to {found.high[stage]:.2f})"


def test_it_goes_on_with_what_is_missing(folder, capsys):
    before = json.loads((folder / "curves.json").read_text())["rows"]
    curves.main([*TOY, "--algorithms", "maml", "--output", str(folder)])
    assert json.loads((folder / "curves.json").read_text())["rows"] == before
    assert "### point-nav" in capsys.readouterr().out


def test_other_arguments_are_refused(folder):
    with pytest.raises(cli.UserError, match="holds a comparison with other arguments"):
        curves.main([*TOY, "--algorithms", "maml", "--seeds", "3", "--output", str(folder)])
