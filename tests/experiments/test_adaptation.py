"""The adaptation benchmark at toy size: what it writes, how it goes on, and rows that somebody else adds."""

import json

import numpy as np
import pytest

from benchmarks import adaptation as script
from experiments import curves
from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation import adaptation

SIZES = {"tasks": 2, "episodes": 2, "policy": {"hidden": (2,)}}


@pytest.fixture(autouse=True, scope="module")
def _toys():
    small = curves.FAMILIES["point-nav"]._replace(
        environment={"action_scale": 10.0, "horizon": 3}, gradient=SIZES | {"episodes": 4}, memory=SIZES
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "prepare_jax", lambda task=None: None)
        patch.setitem(curves.FAMILIES, "point-nav", small)
        patch.setitem(script.SUITES, "small", (("point-nav",), ("maml", "oracle")))
        # At this size nothing is learned, so the oracle's scale is put there by hand.
        real = adaptation.anchors
        patch.setattr(
            adaptation, "anchors", lambda rows: {f: a._replace(high=a.low + 5) for f, a in tolerant(real, rows)}
        )
        yield


def tolerant(real, rows):
    families = dict.fromkeys(row["family"] for row in rows)
    low = {f: next(np.mean(r["per_task"]) for r in rows if r["family"] == f) for f in families}
    return [(family, adaptation.Anchors(float(low[family]), np.nan)) for family in families]


TOY = ["--seeds", "2", "--steps", "60", "--eval-tasks", "3", "--eval-episodes", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptation")
    script.main([*TOY, "--output", str(folder)])
    return folder


def test_rows_of_the_suite_their_speed_and_the_pictures(folder):
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert [row["algorithm"] for row in rows] == [adaptation.UNTRAINED, "maml", "oracle"]
    assert all(np.array(row["per_task"]).shape == (2, 3, 2) for row in rows)
    assert rows[1]["ms_per_stage"] is not None
    assert rows[1]["ms_per_action"] > 0
    assert all((folder / name).stat().st_size > 5_000 for name in ("adaptation.png", "profiles.png"))
    assert "`maml`" in (folder / "adaptation.md").read_text()


def test_the_untrained_row_is_fresh_parameters_that_adapt(folder):
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    untrained, maml = (np.array(row["per_task"]) for row in rows[:2])
    assert not np.allclose(untrained[..., 0], untrained[..., 1])
    assert not np.allclose(untrained, maml)


def test_rows_of_others_join_and_nothing_is_trained_again(folder, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a row was computed again")

    monkeypatch.setattr(script, "run", never)
    mine = {"family": "point-nav", "algorithm": "mine", "episodes": [0, 4], "per_task": np.zeros((2, 3, 2)).tolist()}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([mine]))
    script.main([*TOY, "--output", str(folder), "--add", str(path)])
    report = json.loads((folder / "adaptation.json").read_text())
    assert [record["algorithm"] for record in report["summary"]] == [adaptation.UNTRAINED, "maml", "mine"]
    assert report["summary"][-1]["source"] == "mine.json"
    assert report["probability_of_improvement"]["mine"]["maml"] == 1.0  # returns here are negative
    assert "`mine`" in (folder / "adaptation.md").read_text()
    assert json.loads((folder / "rows.json").read_text())["rows"][-1]["algorithm"] == "oracle"  # it stays theirs


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ('{"a": 1}', "holds no list of rows"), ('[{"family": "x"}]', "has no 'algorithm'")],
)
def test_files_of_others_that_are_none(folder, tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(cli.UserError, match=message):
        script.main([*TOY, "--output", str(folder), "--add", str(path)])


def test_an_unknown_suite(tmp_path):
    with pytest.raises(cli.UserError, match="'smal': did you mean 'small'"):
        script.main(["--suite", "smal", "--output", str(tmp_path / "new")])
