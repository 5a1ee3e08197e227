"""Members as processes, by submitit here and on Slurm; one real sweep, killed and resumed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarl_jax.runs.storage.folder import LOCK, only_writer
from metarl_jax.runs.sweeps import jobs as sweep_jobs

ROOT = Path(__file__).parents[2]

MEMBER = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(*_):
    print("checkpoint", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
folder.mkdir(exist_ok=True)
(folder / "config.json").touch()
print("arguments", *sys.argv[2:], flush=True)
if "wait" in sys.argv:
    time.sleep(60)
print("error: it ends here", flush=True)
"""


def program(folder, code=MEMBER):
    (folder / "member.py").write_text(code)
    return sys.executable, str(folder / "member.py")


def worker(folder, *words, lock=None):
    command = (*program(folder), str(folder / "run"), *words)
    return sweep_jobs.Worker(command, folder / "log", lock=lock)


def test_the_last_words_are_those_of_the_last_start(tmp_path):
    assert worker(tmp_path)() == 0
    assert sweep_jobs.last_words(tmp_path / "log") == "it ends here"
    (tmp_path / "log").write_text((tmp_path / "log").read_text().replace("error: it ends", "error: it ended"))
    assert worker(tmp_path)() == 0
    assert sweep_jobs.last_words(tmp_path / "log") == "it ends here"
    with (tmp_path / "log").open("a") as log:
        print(sweep_jobs.footer(), file=log)
    assert sweep_jobs.last_words(tmp_path / "log") == "it ends here"


def test_a_member_ends_with_its_sweep(tmp_path):
    with only_writer(tmp_path):
        lock = tmp_path / LOCK
    began = time.monotonic()
    assert worker(tmp_path, "wait", lock=lock)() == 3
    assert time.monotonic() - began < 30
    assert sweep_jobs.last_words(tmp_path / "log") == "checkpoint"


def test_local_processes_are_stopped_by_sigterm_see_the_gpus_and_use_one_thread_of_mujoco(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("METARL_MUJOCO_THREADS", raising=False)
    seen = "CUDA_VISIBLE_DEVICES", "METARL_MUJOCO_THREADS"
    code = f"import os; print('sees', *map(os.environ.get, {seen}), flush=True)" + MEMBER
    with only_writer(tmp_path):
        engine = sweep_jobs.Engine(tmp_path, (*program(tmp_path, code), str(tmp_path / "run")), sharing=True)
        (tmp_path / "logs" / "wait.log").write_text(f"of an earlier start\n{sweep_jobs.footer()}\n")
        job = engine.start(["run", "wait"])
        log = tmp_path / "logs" / "run.log"
        deadline = time.monotonic() + 60
        while "arguments" not in (log.read_text() if log.exists() else ""):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not job.done()
        while not job.done():
            assert time.monotonic() < deadline
            job.stop()
            time.sleep(0.2)
    assert log.read_text().splitlines()[1:] == ["sees 1 1", "arguments run wait", "checkpoint"]
    assert job.last_words("run") == "its process died after: checkpoint"
    assert [job.begun(name) for name in ("run", "wait")] == [True, False]
    assert [job.ended(name) for name in ("run", "wait")] == [False, False]
    with log.open("a") as file:
        print(sweep_jobs.footer(), file=file)
    assert job.ended("run")
    assert job.last_words("run") == "checkpoint"


SLURM = {
    "sbatch": "export SLURM_JOB_ID=7 SLURM_JOB_NODELIST=here\nbash $1 >/dev/null 2>&1 &\necho Submitted batch job 7",
    "srun": "while [[ $1 == -* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done\nSLURM_PROCID=0 exec $*",
    "sacct": "echo 'JobID|State'",
}


def test_slurm_runs_the_same_workers(tmp_path, monkeypatch):
    for name, text in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    slurm = sweep_jobs.slurm_parameters(["time=60", "partition=gpu", "gpus_per_node=1"])
    engine = sweep_jobs.Engine(tmp_path, (*program(tmp_path), str(tmp_path / "run")), slurm=slurm)
    job = engine.start(["run"])
    deadline = time.monotonic() + 60
    while not job.done():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert job.last_words("run") == "its process died after: it ends here"
    (batch,) = (tmp_path / "submitit").glob("*/*submission.sh")
    assert batch.parent.stat().st_mode & 0o077 == 0, "who can write there can run programs as this user"
    assert {"#SBATCH --partition=gpu", "#SBATCH --time=60", "#SBATCH --gpus-per-node=1"} <= set(
        batch.read_text().splitlines()
    )


def test_before_a_time_limit_a_member_ends_well_and_is_queued_again(tmp_path):
    """submitit calls `checkpoint` in the handler of SIGUSR2, which Slurm sends to train.py too."""
    member = worker(tmp_path, "wait")
    queued = []

    def limit(*_):  # asked for every tenth of a second, it waits for the member to be up
        log = tmp_path / "log"
        if not queued and log.exists() and "arguments" in log.read_text():
            os.kill(member._child.pid, signal.SIGUSR2)
            queued.append(member.checkpoint())

    before = signal.signal(signal.SIGALRM, limit)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        assert member() == 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert sweep_jobs.last_words(tmp_path / "log") == "checkpoint"
    assert queued[0].function.command == member.command
    assert queued[0].function._child is None


# --- one real sweep --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("at_once", ["1", "2"])
def test_a_real_sweep_is_killed_and_resumed(tmp_path, at_once):
    tiny = ["--task", "point-nav", "--tasks", "2", "--episodes", "2", "--horizon", "5", "--eval-tasks", "2"]
    length = ["--iterations", "400", "--checkpoint-every", "10"]
    command = [sys.executable, ROOT / "experiments" / "sweep.py", "--folder", tmp_path / "s", "--grid", "clip=0.2,0.3"]
    command = [*map(str, command), "--at-once", at_once, "--", *tiny, *length]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = tmp_path / "s" / "clip=0.2"

    def start():
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    running = start()
    deadline = time.monotonic() + 300
    while not list((first / "checkpoints").glob("[1-9]0")):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.terminate()
    out, err = running.communicate(timeout=120)
    assert running.returncode == 1, err
    assert "SIGTERM: stopping the members" in out
    assert err == "error: stopped with 2 of 2 members to go; start the same command to go on\n"
    stopped_at = len((first / "metrics.csv").read_text().splitlines()) - 1
    assert 10 <= stopped_at < 400
    resumed = start()
    out, err = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, err
    assert "iterations 0 to 400" not in (tmp_path / "s" / "logs" / "clip=0.2.log").read_text().rpartition("=== ")[2]
    with (tmp_path / "s" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["folder"] for row in rows} == {"clip=0.2", "clip=0.3"}
    assert [row["status"] for row in rows] == ["finished"] * 2
    assert float(rows[0]["after_mean"]) >= float(rows[1]["after_mean"])
    assert (tmp_path / "s" / "results.png").stat().st_size > 1000
