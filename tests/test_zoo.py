"""The θ that come with the package: whole, documented, and as good as they say."""

import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

import metarl_jax as mrl
from metarl_jax.runs.console import cli
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.training import streams
from metarl_jax.zoo import store
from metarl_jax.zoo.__main__ import main as command
from tests import rows

FEW, MANY = 2, 40
SLOW = {"cheetah-dir/maml-trpo", "cheetah-vel/maml-trpo", "ant-vel/maml-trpo", "hopper-params/promp"}
SLOW |= {"ant-dir/promp", "reacher-goal/promp"}


def equal(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


@pytest.mark.parametrize("name", mrl.zoo.names())
def test_every_entry_says_where_it_comes_from(name):
    about, report = mrl.zoo.about(name), mrl.zoo.evaluation(name)
    assert about.keys() == {"command", "date", "hardware", "seed", "iteration", "licence", "sha256"}
    assert about["command"].startswith("python experiments/train.py")
    loaded = mrl.zoo.load(name)
    assert (report["iteration"], report["algorithm"]) == (about["iteration"], loaded.config.algorithm)
    assert name == f"{loaded.config.task.split('@')[0]}/{loaded.config.algorithm}"
    rows = report["rows"]
    assert rows["adapted"]["mean"][-1] > rows["random_init"]["mean"][-1] + 5 * rows["adapted"]["standard_error"][-1]
    assert (loaded.config.folder, loaded.config.seeds) == (None, 1)
    head, *curve = (store.ROOT / name / "metrics.csv").read_text().splitlines()
    assert "return_0" in head
    assert len(curve) >= about["iteration"] - 1


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in mrl.zoo.names()]
)
def test_its_evaluation_is_reproduced(name):
    """Of the first tasks. Another machine's rounding grows over an adaptation; in a body's contacts, or where a choice
    hangs on it, at once, so that its episodes are other draws there: then the mean over tasks is the same, if θ has
    learned to adapt.
    """
    loaded, report = mrl.zoo.load(name), mrl.zoo.evaluation(name)
    key = streams(jax.random.key(report["seed"])).evaluate
    memory = mrl.algorithms.kind(loaded.config.algorithm) == "memory"
    tasks, steps = (MANY, None) if memory else (FEW, len(report["inner_lr"]))
    rows = mrl.evaluation.evaluate(loaded.algorithm, loaded.env, key, loaded.params, num_tasks=tasks, steps=steps)
    known = {kind: np.array(row["per_task"])[:tasks] for kind, row in report["rows"].items()}
    spread = known["adapted"][:, -1].std() + np.ptp(known["adapted"])
    # Of a memory whose choices fell otherwise: four standard errors of the difference of two means over other draws.
    tolerance = 4 * np.sqrt(2 / MANY) * known["adapted"].std(0).max() if memory else 0.1 * spread
    chaotic = memory or loaded.config.backend is not None
    for kind in ("adapted",) if chaotic else rows:
        found, expected = (x.mean(0) if chaotic else x for x in (rows[kind].per_task, known[kind]))
        np.testing.assert_allclose(found, expected, atol=tolerance)
    if not chaotic:
        first = [rows["adapted"].per_task[:, 0], known["adapted"][:, 0]]
        np.testing.assert_allclose(*first, rtol=1e-3)


def test_unpacked_it_is_a_run(tmp_path):
    folder = mrl.zoo.unpack("point-nav/maml-trpo", tmp_path / "runs" / "mine")
    run, entry = mrl.load(folder), mrl.zoo.load("point-nav/maml-trpo")
    equal(run.params, entry.params, rtol=0)
    assert run.iteration == entry.iteration == 100
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert mrl.zoo.unpack("point-nav/maml-trpo", folder) == folder
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    name, folder = "point-nav/maml-trpo", tmp_path / "run"
    folder.mkdir()
    with pytest.raises(ValueError, match="run is there and does not hold point-nav/maml-trpo of the zoo alone"):
        mrl.zoo.unpack(name, folder)
    assert not list(folder.iterdir())
    folder.rmdir()
    mrl.zoo.unpack(name, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    shutil.rmtree(next((folder / "checkpoints").glob("100*")))
    with pytest.raises(ValueError, match="does not hold"):
        mrl.zoo.unpack(name, folder)


def test_a_run_becomes_an_entry(tmp_path, monkeypatch):
    name = "point-nav/maml-trpo"
    folder = mrl.zoo.unpack(name, tmp_path / "run")
    with pytest.raises(ValueError, match=r"has no evaluation.json; experiments/evaluate.py writes it"):
        store.add(folder, name, "python experiments/train.py", "a laptop", tmp_path)
    report = mrl.zoo.evaluation(name)
    (folder / "evaluation.json").write_text(json.dumps(report | {"iteration": 7}))
    with pytest.raises(ValueError, match="was evaluated at iteration 7, not 100"):
        store.add(folder, name, "python experiments/train.py", "a laptop", tmp_path)
    (folder / "evaluation.json").write_text(json.dumps(report))
    store.add(folder, name, "python experiments/train.py", "a laptop", tmp_path)
    with pytest.raises(ValueError, match="maml-trpo exists; move it away"):
        store.add(folder, name, "python experiments/train.py", "a laptop", tmp_path)
    original = mrl.zoo.load(name)
    monkeypatch.setattr(store, "ROOT", tmp_path)
    assert mrl.zoo.names() == (name,)
    assert mrl.zoo.about(name)["hardware"] == "a laptop"
    equal(mrl.zoo.load(name).params, original.params, rtol=0)


def test_what_cannot_be_added_is_said_in_a_line(tmp_path, capsys):
    words = ["add", str(tmp_path / "none"), "a/b", "--command", "c", "--hardware", "h"]
    assert cli.run(command, words) == 2
    assert re.fullmatch(r"error: .*none.*\n", capsys.readouterr().err)


def test_a_damaged_entry_is_not_loaded(tmp_path, monkeypatch):
    name = "point-nav/maml-trpo"
    shutil.copytree(store.ROOT / name, tmp_path / name)
    monkeypatch.setattr(store, "ROOT", tmp_path)
    path = tmp_path / name / "theta.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        mrl.zoo.load(name)
    path.write_bytes(whole)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    first = next(iter(arrays))
    np.savez(path, **arrays | {first: arrays[first] + 1})
    with pytest.raises(ValueError, match="is not the θ that about.json names"):
        mrl.zoo.load(name)


def test_names_that_are_none():
    with pytest.raises(ValueError, match="unknown name in the zoo 'point-nav/maml': did you mean"):
        mrl.zoo.load("point-nav/maml")
    with pytest.raises(ValueError, match="unknown name in the zoo"):
        mrl.zoo.load("../point-nav/maml-trpo")


@pytest.mark.parametrize("budget", [4000, rows.thorough(200)])
def test_a_budget_that_was_not_met_is_said(tmp_path, budget):
    """Before it adapts an episode takes its hundred steps, and after two steps few: 40 of them are no 4,000 steps."""
    folder, console = mrl.zoo.unpack("point-nav/maml-trpo", tmp_path / "run"), Console(file=io.StringIO(), width=200)
    report = evaluate_run(folder, console, tasks=3, steps=2, episodes=40, stage_steps=budget)
    taken = np.diff(report["rows"]["adapted"]["environment_steps"])
    assert ("not every stage reached" in console.file.getvalue()) == (taken.min() < budget) == (budget == 4000)
