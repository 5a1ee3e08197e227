"""What is no plain file is refused by name, before anything waits for it or writes through it."""

import contextlib
import os
import signal
import socket
import stat

import numpy as np
import pytest
from matplotlib.figure import Figure

from metarl_jax.runs import run as runs
from metarl_jax.runs.config.file import read_config, write_config
from metarl_jax.runs.console.cli import UserError
from metarl_jax.runs.evaluation import comparisons
from metarl_jax.runs.evaluation.reports import write_report
from metarl_jax.runs.logging.loggers import TableLogger, TensorBoardLogger, TimingLog
from metarl_jax.runs.pictures.video import _write_gif
from metarl_jax.runs.storage import files
from metarl_jax.runs.storage.folder import LOCK, only_writer
from metarl_jax.runs.sweeps import jobs as sweep_jobs
from metarl_jax.runs.sweeps import plans as sweeps
from metarl_jax.runs.sweeps import results as sweep_results
from tests.runs.stub import contents, make


@pytest.fixture(autouse=True)
def at_once():
    """Who waits for the other end of a pipe fails."""

    def waits(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def link(path):
    (path.parent / "victim").write_text("precious")
    path.symlink_to("victim")


def bound(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)  # an address holds about a hundred letters


KINDS = {
    "a symbolic link": link,
    "a symbolic link to nothing": lambda path: path.symlink_to("nothing"),
    "a named pipe": os.mkfifo,
    "a socket": bound,
    "a folder": os.mkdir,
}
USES = {
    "config.json": [lambda path: write_config(make("x"), path.parent), lambda path: read_config(path.parent)],
    "metrics.csv": [TableLogger, lambda path: TableLogger(path, 3), lambda path: files.opened(path)],
    "timing.csv": [TimingLog],
    LOCK: [lambda path: only_writer(path.parent).__enter__()],
    "evaluation.json": [lambda path: write_report({}, path)],
    "picture.png": [lambda path: files.save(Figure(), path)],
    "video.gif": [lambda path: _write_gif(None, path, 1.0)],
    "sweep.json": [lambda path: sweeps.open_folder(sweeps.Plan((), {}), path.parent)],
    "results.csv": [lambda path: sweep_results.write([], path, 1)],
    "comparison.json": [
        lambda path: comparisons.read(path, {}),
        lambda path: comparisons.fill(path, {"arguments": {}, "rows": []}, [1], lambda which: [{}]),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", USES)
def test_every_use_of_a_name_refuses_it(tmp_path, monkeypatch, name, kind):
    monkeypatch.setattr("metarl_jax.runs.pictures.video.frames", lambda _: iter([np.zeros((2, 2, 3), np.uint8)]))
    KINDS[kind](tmp_path / name)
    before, kind_before = contents(tmp_path), os.lstat(tmp_path / name).st_mode
    for use in USES[name]:
        with pytest.raises(OSError, match=f"it is {kind.removesuffix(' to nothing')}, and not a file") as caught:
            use(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    assert (contents(tmp_path), os.lstat(tmp_path / name).st_mode) == (before, kind_before)


def test_what_is_written_goes_through_no_link(tmp_path, stub, console):
    """Neither a link under the name of a temporary file, nor one to where the file of this second would be."""
    folder = tmp_path / "run"
    runs.train_run(make(folder, iterations=4), console)
    write_config(make(folder), folder)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for path in [*folder.iterdir()]:
        path.with_name(f"{path.name}.tmp").symlink_to(victim)
    runs.train_run(make(folder), console, resume=True)
    assert victim.read_text() == "precious"
    left = [path.name for path in folder.iterdir() if path.is_symlink()]
    assert {name for name in left if "." in name.removesuffix(".tmp")} == {"timing.csv.tmp"}  # only appended to


FOLDERS = {
    "checkpoints": lambda folder: folder / "checkpoints",
    "a checkpoint": lambda folder: folder / "checkpoints" / "4",
    "a part of one": lambda folder: folder / "checkpoints" / "8" / "state" / "manifest.ocdbt",
    "tensorboard": lambda folder: folder / "tensorboard",
    "a seed's events": lambda folder: folder / "tensorboard" / "seed-1",
    "renders": lambda folder: folder / "renders",
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a folder"])
@pytest.mark.parametrize("which", FOLDERS)
def test_what_is_no_folder_of_the_runs_own_is_refused(tmp_path, stub, console, which, kind):
    folder = tmp_path / "run"
    (folder / "checkpoints" / "8" / "state").mkdir(parents=True)
    write_config(make(folder), folder)
    path = FOLDERS[which](folder)
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        path.rename(tmp_path / "elsewhere")
    KINDS[kind](path)
    for use in (
        lambda: runs.train_run(make(folder), console, resume=True),
        lambda: runs.evaluate_run(folder, console),
    ):
        with pytest.raises(UserError, match=f"cannot use {path}: it is {kind.removesuffix(' to nothing')}, and not a"):
            use()


def test_a_sweep_refuses_what_is_not_its_own(tmp_path):
    plan = sweeps.Plan((), {"member": {}})
    assert not sweeps.open_folder(plan, tmp_path / "sweep")
    (tmp_path / "sweep" / "member").symlink_to(tmp_path)
    with pytest.raises(OSError, match="it is a symbolic link, and not a folder"):
        sweeps.open_folder(plan, tmp_path / "sweep")


def test_a_member_whose_files_are_none_counts_as_without(tmp_path):
    for name in ("metrics.csv", "log", "evaluation.json"):
        os.mkfifo(tmp_path / name)
    assert sweep_results._column(tmp_path / "metrics.csv", "iteration").size == 0
    assert sweep_jobs.last_words(tmp_path / "log") == ""
    assert sweep_results.report(tmp_path, make(tmp_path)) is None


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "file"
    files.write(path, "one\n")
    with contextlib.suppress(KeyboardInterrupt), files.whole(path) as file:
        file.write("two")
        file.flush()
        assert path.read_text() == "one\n"
        raise KeyboardInterrupt
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("file", "one\n")]
    (tmp_path / "file.tmp").write_text("of a killed process")
    files.write(path, "three\n")
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("file", "three\n")]
    before = os.umask(0o027)
    files.write(path, "four\n")
    os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640  # as any other program would


def test_events_of_one_second_have_files_of_their_own_which_tensorboard_reads_in_order(tmp_path):
    (tmp_path / "events.ffffffff.out.tfevents.1700000000.host").touch()  # of an earlier version
    seen = [path.name for path in tmp_path.iterdir()]
    for resume_at in (None, *range(1, 12)):
        logger = TensorBoardLogger(tmp_path, resume_at)
        logger.log(resume_at or 0, 0, {"return": 1.0})
        logger.close()
        seen += [path.name for path in tmp_path.iterdir() if path.name not in seen]
    assert len(seen) == 13
    assert sorted(seen) == seen
