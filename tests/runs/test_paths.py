"""Where a run folder may lie: under every name that is text, or it is refused before anything is written."""

import os
import re
import shlex
from pathlib import Path

import pytest

from metarl_jax.runs import run as runs
from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
from metarl_jax.runs.console.cli import RunStopped, UserError
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.runs.logging.progress import TrainingProgress
from metarl_jax.runs.storage.folder import check_path
from metarl_jax.runs.sweeps import plans as sweeps
from tests.runs.stub import assert_same_run, make

# What globs, URLs, shells, format strings and markup know, in one name each for a folder and for the one above it.
ODD = ("-a[0.1] {b}*?", "**[!c]]%d%j é日 #:,;'\"$~[/red]<&>|")
REFUSED = {
    "a\\b": "holds a backslash",
    os.fsdecode(b"a\xff"): "is not text in UTF-8",
    "gs:": "holds 'gs:/'",
    "data gs:/run": "holds 'gs:/'",
    "a\nb": "holds a control character",
    "a\x1b[2J": "holds a control character",
    "/s3/run": "begins with /s3",
    "/".join(["x" * 200] * 18): "has 36.. bytes, and more than 3500",
}


def test_a_run_trains_stops_resumes_and_is_evaluated_under_any_name(whole, tmp_path, stub, console, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, update = Path(*ODD), TrainingProgress.update

    def interrupt(self, done, *arguments):
        if done == 1:
            os.kill(os.getpid(), 15)
        update(self, done, *arguments)

    read, prove = [], Checkpoints.prove
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "prove", lambda self, iteration: read.append(iteration) or prove(self, iteration))
        patch.setattr(TrainingProgress, "update", interrupt)
        with pytest.raises(RunStopped) as stopped:
            runs.train_run(make(folder), console)
    assert read == [0]
    words = shlex.split(str(stopped.value).partition("go on with: ")[2])
    assert words == ["python", "experiments/train.py", "--resume", "--folder", f"./{folder}"]
    runs.train_run(make(words[-1]), console, resume=True)
    assert_same_run(folder, whole, make(whole))
    evaluate_run(folder, console, checkpoint="best")
    os.rename(folder, "plain")
    assert_same_run(Path("plain"), whole, make(whole))


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_path_that_checkpoints_cannot_have_is_refused(tmp_path, stub, console, name):
    folder, left = tmp_path / name, sorted(tmp_path.rglob("*"))
    for use in (
        lambda: runs.train_run(make(folder), console),
        lambda: runs.train_run(make(folder), console, resume=True),
        lambda: sweeps.open_folder(sweeps.Plan((), {}), folder),
    ):
        with pytest.raises((UserError, ValueError), match=f"cannot hold checkpoints: its path {REFUSED[name]}"):
            use()
    assert sorted(tmp_path.rglob("*")) == left


def test_a_link_is_where_it_leads(tmp_path):
    (tmp_path / "plain").symlink_to("a\\b")
    with pytest.raises(ValueError, match="backslash"):
        check_path(tmp_path / "plain" / "run")


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path, stub, console):
    (tmp_path / "run").symlink_to("run")
    with pytest.raises(UserError, match="run"):
        runs.train_run(make(tmp_path / "run"), console)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_sweep_is_refused_where_submitit_would_rename_it(tmp_path):
    with pytest.raises(ValueError, match="holds %j, which submitit replaces"):
        sweeps.open_folder(sweeps.Plan((), {}), tmp_path / "a%job")
    assert not list(tmp_path.iterdir())


def test_a_first_checkpoint_that_cannot_be_read_ends_the_run_before_it_trains(tmp_path, stub, console, monkeypatch):
    wait = Checkpoints.wait

    def lose(self):
        wait(self)
        for file in (self.directory / "0" / "state").rglob("*"):
            if file.is_file():
                file.write_bytes(b"")

    monkeypatch.setattr(Checkpoints, "wait", lose)
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("it trains"))
    message = (
        rf"written to {re.escape(str(tmp_path))}/run/checkpoints cannot be read back \(.+\).*another folder by --f"
    )
    with pytest.raises(UserError, match=message):
        runs.train_run(make(tmp_path / "run"), console)
