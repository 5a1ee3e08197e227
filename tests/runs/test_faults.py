"""What ends a run before its time, and what is left then. benchmarks/faults.py does the same to real processes."""

import contextlib
import errno
import io
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from metarl_jax.runs import run as runs
from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
from metarl_jax.runs.checkpoint.states import restore
from metarl_jax.runs.config.file import write_config
from metarl_jax.runs.console import cli, signals
from metarl_jax.runs.console.cli import RunStopped, UserError
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.runs.logging.progress import TrainingProgress
from metarl_jax.runs.pictures.plots import read_metrics
from metarl_jax.runs.storage.folder import only_writer
from tests import rows
from tests.runs.stub import assert_same_run, contents, make, newest


@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGTERM, 143), rows.thorough(signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=lambda v: str(int(v)),
)
def test_a_signal_saves_what_was_done_and_says_how_to_go_on(
    whole, tmp_path, console, monkeypatch, request, signum, status
):
    if signum == signal.SIGHUP:  # the tests may run under nohup, which has it ignored
        ignored = signal.signal(signum, signal.SIG_DFL)
        request.addfinalizer(lambda: signal.signal(signum, ignored))
    folder = tmp_path / "stopped"
    update = TrainingProgress.update

    def interrupt(self, done, *arguments):
        if done == 1:  # while the second chunk runs, which ends at no multiple of `checkpoint_every`
            os.kill(os.getpid(), signum)
        update(self, done, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "update", interrupt)
        before = signal.getsignal(signum)
        with pytest.raises(RunStopped, match=r"iteration 2 of 10 is saved; go on with: .*--resume --folder") as caught:
            runs.train_run(make(folder), console)
        assert signal.getsignal(signum) is before
    assert caught.value.status == status
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + 2
    assert int(newest(folder, make(folder)).iteration) == 2
    runs.train_run(make(folder), console, resume=True)
    assert_same_run(folder, whole, make(whole))


def test_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals.handled(str):
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, before)


class Pipe(io.StringIO):
    """Standard output whose reader ends after a line of the training."""

    def write(self, text):
        super().write(text)
        if "iteration 1/" in self.getvalue():
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_the_loss_of_standard_output_saves_what_was_done(tmp_path, stub, capsys):
    def main(argv):
        runs.train_run(make(tmp_path / "run"), cli.console())

    with contextlib.redirect_stdout(Pipe()):
        assert cli.run(main, []) == 2
    saved = int(newest(tmp_path / "run", make(tmp_path / "run")).iteration)
    assert 1 <= saved < 10
    message = (
        rf"output cannot be written \(broken pipe\); iteration {saved} of 10 is saved; go on with: .*--folder \S+\n"
    )
    assert re.fullmatch(f"error: standard {message}", capsys.readouterr().err)


def test_a_signal_while_a_checkpoint_is_read_is_no_damage(whole, console, monkeypatch):
    read = Checkpoints._read

    def interrupt(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return read(self, *arguments)

    before = contents(whole)
    monkeypatch.setattr(Checkpoints, "_read", interrupt)
    with pytest.raises(RunStopped, match="stopped by SIGTERM: go on with"):
        runs.train_run(make(whole), console, resume=True)
    assert contents(whole) == before


def test_a_second_signal_ends_at_once(tmp_path, stub, console, monkeypatch):
    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still running")

    monkeypatch.setattr(TrainingProgress, "update", interrupt)
    with pytest.raises(RunStopped, match="stopped by SIGINT: go on with"):
        runs.train_run(make(tmp_path / "run"), console)


def test_a_second_writer_is_refused_with_the_owner_named(tmp_path, stub, console):
    config = make(tmp_path / "run", iterations=6)
    runs.train_run(config, console)
    with only_writer(tmp_path / "run"):
        before = contents(tmp_path / "run")
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on {socket.gethostname()}"):
            runs.train_run(config, console, resume=True)
        assert contents(tmp_path / "run") == before
        evaluate_run(tmp_path / "run", console)  # a reader needs no lock
    runs.train_run(config, console, resume=True)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, pathlib; from metarl_jax.runs.storage.folder import only_writer\n"
        "with only_writer(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match=f"in use by process {owner.pid}"), only_writer(tmp_path):
        pass
    owner.kill()
    owner.communicate()
    with only_writer(tmp_path):
        pass


def test_a_disk_that_is_full_stops_the_run_in_one_line(tmp_path, stub, console, monkeypatch):
    def full(self, state, score=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "run"
    runs.train_run(make(folder, iterations=4), console)
    write_config(make(folder), folder)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", full)
        with pytest.raises(RunStopped, match="No space left on device; every whole checkpoint is kept: make room") as e:
            runs.train_run(make(folder), console, resume=True)
    assert "\n" not in str(e.value)
    assert int(newest(folder, make(folder)).iteration) == 4


def test_skip_goes_on_and_counts(tmp_path, stub, console):
    stub(nan_metric_at=6)
    folder = tmp_path / "run"
    with pytest.raises(RunStopped, match="--resume --override --on-nonfinite skip goes on without"):
        runs.train_run(make(folder), console)
    runs.train_run(make(folder, on_nonfinite="skip"), console, resume=True, override=True)
    table = read_metrics(folder / "metrics.csv")
    assert table["nonfinite"].tolist() == [0.0] * 6 + [1.0] + [0.0] * 3
    assert np.isnan(table["loss"][6])
    assert "1 update was undone, since a number was not finite" in console.file.getvalue()


def test_a_run_that_skips_already_is_told_what_would_help(tmp_path, stub, console):
    stub(void_at=range(4, 8))
    with pytest.raises(RunStopped, match="--resume --override --patience 20"):
        runs.train_run(make(tmp_path / "run", on_nonfinite="skip", patience=2), console)
    runs.train_run(make(tmp_path / "run", on_nonfinite="skip", patience=20), console, resume=True, override=True)


def test_iterations_without_an_episode_stop_a_run_or_are_skipped_in_words(tmp_path, stub, console):
    """Of iterations 4 to 7 no return is known: it is in no table, and no checkpoint is the best by it."""
    cause = "observation[0] is inf at reset, and an episode takes up to ±1e+08"
    stub(void_at=range(4, 8))
    folder = tmp_path / "run"
    with pytest.raises(RunStopped) as stopped:
        runs.train_run(make(folder), console)
    told = f"stopped at iteration 4: 'diverged_episodes' is 8, all of them: {cause}; the last good checkpoint"
    assert str(stopped.value).startswith(told)
    assert "mrl.envs.check" in str(stopped.value)
    assert "debug-nans" not in str(stopped.value)
    runs.train_run(make(folder, on_nonfinite="skip"), console, resume=True, override=True)
    text = console.file.getvalue()
    assert f"iteration 4: every episode diverged: {cause}; such iterations are skipped" in text
    assert text.count("every episode diverged") == 1
    assert "episodes diverged, " in text  # the progress line
    assert "32 episodes diverged and count nowhere" in text
    assert "4 updates were undone, since a number was not finite or no episode sound" in text
    table = read_metrics(folder / "metrics.csv")
    for name in ("return_0", "return_1", "gain"):
        assert np.flatnonzero(np.isnan(table[name])).tolist() == [4, 5, 6, 7]
    assert int(restore(make(folder), "best")[0].iteration) != 8, "the mean of no return"


def test_debug_nans_names_the_operation(tmp_path, stub, console):
    stub(nan_metric_at=2)
    with pytest.raises(RunStopped, match=r"iteration 2: 'loss' is nan.*encountered in .*in update \(.*stub.py:\d+: "):
        runs.train_run(make(tmp_path / "run"), console, debug_nans=True)
