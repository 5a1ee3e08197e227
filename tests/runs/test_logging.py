import sys
import types

import numpy as np
import pytest

from metarl_jax.plot import smooth
from metarl_jax.runs.logging.loggers import TableLogger, WandbLogger, rows
from metarl_jax.runs.logging.progress import duration, quantity
from metarl_jax.runs.pictures.plots import read_metrics
from metarl_jax.runs.storage.folder import LOCK, unborn

METRICS = {
    "a": np.array([1, 2], np.int32),
    "return": np.array([[0.1, 1 / 3], [1e-30, -0.0]], np.float32),
    "gain": np.array([0.1, 0.2]),
}


def write(path, count, resume_at=None):
    logger = TableLogger(path, resume_at)
    for iteration in range(resume_at or 0, count):
        logger.log(iteration, 0, {"x": np.float32(iteration) / 3})
    logger.flush()
    logger.close()


def test_vectors_become_numbered_columns_after_return_and_gain():
    assert [list(row) for row in rows(METRICS)] == [["return_0", "return_1", "gain", "a"]] * 2
    assert rows(METRICS)[1]["a"] == 2
    assert rows({}) == []


def test_numbers_read_back_exactly(tmp_path):
    logger = TableLogger(tmp_path / "metrics.csv")
    for iteration, row in enumerate(rows(METRICS)):
        logger.log(iteration, 7, row)
    logger.flush()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1] == "0,7,0.1,0.33333334,0.1,1"
    table = read_metrics(tmp_path / "metrics.csv")
    for i in range(2):
        np.testing.assert_array_equal(table[f"return_{i}"].astype(np.float32), METRICS["return"][:, i])
    np.testing.assert_array_equal(table["gain"], METRICS["gain"])


def test_rows_are_on_disk_after_a_flush(tmp_path):
    logger = TableLogger(tmp_path / "metrics.csv")
    logger.log(0, 3, {"x": 1.0})
    logger.flush()
    assert (tmp_path / "metrics.csv").read_text() == "iteration,seed,x\n0,3,1.0\n"


@pytest.mark.parametrize("cut", [0, 3])
@pytest.mark.parametrize("resume_at", [0, 1, 4])
def test_resume_drops_later_rows_even_half_written_ones(tmp_path, resume_at, cut):
    path = tmp_path / "metrics.csv"
    write(path, 7)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    write(path, 7, resume_at)
    assert path.read_bytes() == whole


def test_resume_before_the_first_row(tmp_path):
    (tmp_path / "a.csv").touch()
    write(tmp_path / "a.csv", 2, 0)
    write(tmp_path / "b.csv", 2)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    "content",
    ["", "iteration,x\n0,1\n2,1\n3,1\n", "iteration,x\n0,1\n", "x\n1\n2\n3\n", "iteration,x\n0,1\n1,1\n2", "\x80\x81"],
)
def test_resume_wants_every_earlier_row(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match="iterations 0 to 2"):
        TableLogger(path, 3)
    assert path.read_text() == content
    with pytest.raises(ValueError, match="missing"):
        TableLogger(tmp_path / "other.csv", 3)


def test_resume_with_several_seeds_keeps_all_rows_of_an_iteration(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("iteration,seed,x\n" + "".join(f"{i},{seed},1.0\n" for i in range(3) for seed in (4, 5)))
    logger = TableLogger(path, 2, seeds=2)
    logger.log(2, 4, {"x": 2.0})
    logger.close()
    assert path.read_text().splitlines()[3:] == ["1,4,1.0", "1,5,1.0", "2,4,2.0"]
    with pytest.raises(ValueError, match="iterations 0 to 2"):
        TableLogger(path, 3, seeds=2)


def test_a_name_with_a_comma_does_not_hinder_a_resume(tmp_path):
    for resume_at in (None, 1):
        logger = TableLogger(tmp_path / "metrics.csv", resume_at)
        logger.log(resume_at or 0, 0, {"loss, outer": 1.0, "x": 2.0})
        logger.close()
    assert (tmp_path / "metrics.csv").read_text() == 'iteration,seed,"loss, outer",x\n0,0,1.0,2.0\n1,0,1.0,2.0\n'


def test_a_new_table_overwrites_nothing(tmp_path):
    write(tmp_path / "metrics.csv", 1)
    with pytest.raises(FileExistsError):
        TableLogger(tmp_path / "metrics.csv")


def test_the_header_is_stable(tmp_path):
    logger = TableLogger(tmp_path / "metrics.csv")
    logger.log(0, 3, {"x": 1.0, "y": 2.0})
    with pytest.raises(ValueError, match=r"others than those of .*metrics.csv: new are z, gone are x; go on with the"):
        logger.log(1, 3, {"y": 1.0, "z": 2.0})
    logger.log(1, 3, {"y": 4.0, "x": 3.0})
    logger.close()
    assert (tmp_path / "metrics.csv").read_text() == "iteration,seed,x,y\n0,3,1.0,2.0\n1,3,3.0,4.0\n"


def test_wandb_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'metarl-jax\[wandb\]'"):
        WandbLogger("project", tmp_path, {})


def test_wandb_runs_of_folders_with_one_name_are_not_one(tmp_path, monkeypatch):
    asked = []
    wandb = types.SimpleNamespace(init=lambda **keywords: asked.append(keywords["id"]))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for place in ("a", "b", "a"):
        folder = tmp_path / place / "my run"
        folder.mkdir(parents=True, exist_ok=True)
        WandbLogger("project", folder, {})
    assert asked[0] == asked[2] != asked[1]
    assert all(name.startswith("my_run-") for name in asked)
    (tmp_path / "c" / "my run" / "wandb").mkdir(parents=True)  # begun by a version that took the name
    WandbLogger("project", tmp_path / "c" / "my run", {})
    assert asked[3] == "my_run"


def test_a_run_whose_wandb_did_not_start_may_be_started_again(tmp_path, monkeypatch):
    def refuse(**keywords):
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    (tmp_path / LOCK).touch()
    with pytest.raises(OSError, match="no network"):
        WandbLogger("project", tmp_path, {})
    assert unborn(tmp_path)


def test_what_wandb_refuses_is_said_in_words(tmp_path, monkeypatch):
    """Its errors are no ValueErrors, and a script would show them with a traceback."""

    class Error(Exception):
        pass

    def refuse(**keywords):
        raise Error("api_key not configured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse, Error=Error))
    with pytest.raises(
        ValueError, match="wandb is 'project', and W&B does not start: api_key not configured .WANDB_MODE"
    ):
        WandbLogger("project", tmp_path, {})


def test_members_of_a_sweep_in_one_process_have_wandb_runs_of_their_own(tmp_path, monkeypatch):
    """As `wandb.init`: without `reinit` it returns the run that goes on already."""
    active = []

    def init(reinit=None, **keywords):
        if reinit != "create_new" and active:
            return active[0]
        active.append(types.SimpleNamespace(id=keywords["id"]))
        return active[-1]

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        WandbLogger("project", tmp_path / name, {})
    assert [run.id.partition("-")[0] for run in active] == ["a", "b"]


def test_smoothing_is_a_trailing_mean():
    np.testing.assert_allclose(smooth(np.array([1.0, 2, 6, 0]), 2), [1, 1.5, 4, 3])
    np.testing.assert_allclose(smooth(np.array([1.0, 2, 6]), 1), [1, 2, 6])
    np.testing.assert_allclose(smooth(np.array([np.nan, 2, np.nan, 4, np.inf]), 2), [np.nan, 2, 2, 4, 4])


def test_numbers_for_people():
    assert [quantity(x) for x in (3.14159, 1234, 9.87e6, 2e9)] == ["3.14", "1.23 k", "9.87 M", "2 G"]
    assert duration(3725) == "1:02:05"
