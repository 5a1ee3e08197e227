"""Fault of `benchmarks.faults` for multi-process jobs: one of two processes is killed."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.fault_runs import Promises, Run, rows
from benchmarks.fault_tools import SETTINGS, Lab, Outcome, fingerprint

FLAGS = [*SETTINGS, "--tasks", "4", "--iterations", "64"]

SECONDS = 90.0
"""seconds within which the survivor must end; JAX counts a process as dead after 30 s of silence"""


def _start(lab: Lab, folder: Path, *flags: str) -> list[Run]:
    """Two processes of one job, with two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = ("--coordinator", address, "--num-processes", "2", "--process-id")
    return [lab.train(folder, *flags, *job, str(index), devices=2) for index in range(2)]


def processes(lab: Lab) -> Iterator[Outcome]:
    """The survivor ends with one line; both resume from the newest intact checkpoint."""
    alone, whole, promise = lab.folder("alone"), lab.folder("two"), Promises()
    promise.ended(lab.train(alone, *FLAGS), 0)
    for run in _start(lab, whole, *FLAGS, "--devices", "4"):
        promise(run.wait() == 0, run.errors[-300:])
    one, two = (lab.restore(folder)[0] for folder in (alone, whole))
    close = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-3, atol=1e-4), one.params, two.params)
    promise(all(jax.tree.leaves(close)), "two processes and one differ by more than rounding")
    yield Outcome("two processes", "undisturbed; θ close to that of one", "nothing", problems=tuple(promise.broken))
    for victim in range(2):
        folder, promise = lab.folder("one-killed"), Promises()
        runs = _start(lab, folder, *FLAGS, "--devices", "4")
        runs[victim].until(lambda folder=folder: rows(folder) > 20)
        promise(runs[victim].kill() == -signal.SIGKILL, "it had ended before it was killed")
        began = time.monotonic()
        survivor = runs[1 - victim]
        promise(survivor.wait() == 1, f"the survivor ended with {survivor.process.returncode}")
        seconds = time.monotonic() - began
        promise(seconds < SECONDS, f"the survivor took {seconds:.0f} s")
        last = survivor.errors.splitlines()[-1:]
        promise(last and last[0].startswith("error: another process of this job"), f"the survivor says {last}")
        lost = rows(folder) - int(lab.restore(folder)[0].iteration)
        for run in _start(lab, folder, "--resume"):
            promise(run.wait() == 0, run.errors[-300:])
        theta = fingerprint(lab.restore(folder)[0]) == fingerprint(two)
        metrics = (folder / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
        when = f"process {victim} is killed, the other ends in {seconds:.1f} s"
        yield Outcome("two processes", when, f"{lost} iterations, redone", theta, metrics, tuple(promise.broken))
