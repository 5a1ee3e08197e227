"""What the faults of `benchmarks.faults` are made with: real training processes, a reference, and comparisons."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from metarl_jax import devices
from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoints import Checkpoints
from metarl_jax.runs.config_file import read_config, write_config
from metarl_jax.runs.states import initial_state, root_keys
from metarl_jax.training import train
from metarl_jax.types import MetaState, PyTree

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT / "experiments" / "train.py"

ITERATIONS, EVERY = 400, 8
SETTINGS = (
    f"--task point-nav --algorithm promp --tasks 2 --episodes 2 --horizon 10 --hidden 8 8 --iterations {ITERATIONS} "
    f"--checkpoint-every {EVERY} --eval-tasks 2 --eval-steps 1"
).split()

# A checkpoint is written while the next chunk runs, and the one after it waits: never is more than this at stake.
BOUND = 2 * EVERY

UNFINISHED = "*.orbax-checkpoint-tmp"
"""What a checkpoint is called while it is written."""

PATIENCE = 60.0
"""Seconds after which a process counts as hung."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    fault: str
    when: str
    lost: str
    theta: bool | None = None
    """whether the state (θ, optimiser, iteration) equals the reference's bit for bit; None: nothing to compare"""
    metrics: bool | None = None
    """whether metrics.csv equals the reference's byte for byte"""
    problems: tuple[str, ...] = ()
    """every promise that was not kept"""

    @property
    def passed(self) -> bool:
        """Nothing was lost or changed, and every promise was kept."""
        return self.theta is not False and self.metrics is not False and not self.problems


class Promises:
    """Collects those that are not kept."""

    def __init__(self):
        self.broken: list[str] = []

    def __call__(self, kept: object, promise: str) -> None:
        """Notes the promise unless it is kept."""
        if not kept:
            self.broken.append(promise)

    def ended(self, run: "Run", status: int, *words: str) -> None:
        """The run ended with this status and, unless that is 0, one line on stderr that holds these words."""
        found = run.wait()
        self(found == status, f"status {found} instead of {status}: {run.errors[-300:]!r}")
        lines = run.errors.splitlines()
        self(len(lines) == (status != 0), f"{len(lines)} lines on stderr: {run.errors[-300:]!r}")
        for word in words:
            self(word in run.errors, f"stderr does not say {word!r}: {run.errors[-300:]!r}")


def fingerprint(tree: PyTree) -> str:
    """SHA-256 over the leaves' types, shapes and bytes: equal for trees that are equal bit for bit only."""
    total = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
        total.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return total.hexdigest()


def essence(state: MetaState) -> PyTree:
    """What determines all later numbers; not where a rollback would go, which depends on --checkpoint-every."""
    return state.params, state.opt_state.opt_state, state.iteration


def finite(tree: PyTree) -> bool:
    """No leaf holds a NaN or an infinity."""
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the lock, whose content names the last owner."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in files(folder) if path.name != "lock"}


def files(folder: Path) -> list[Path]:
    """Every file below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rows(folder: Path) -> int:
    """Whole rows of metrics.csv."""
    with contextlib.suppress(FileNotFoundError):
        return max(0, (folder / "metrics.csv").read_bytes().count(b"\n") - 1)
    return 0


def unfinished(folder: Path) -> set[int]:
    """The inodes of checkpoints that were begun and not finished."""
    found = set()
    for path in (folder / "checkpoints").glob(UNFINISHED):
        with contextlib.suppress(FileNotFoundError):  # finished in this very moment
            found.add(path.stat().st_ino)
    return found


class Run:
    """A training process."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path):
        self.began = time.monotonic()
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    @property
    def output(self) -> str:
        """Its stdout up to now."""
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def errors(self) -> str:
        """Its stderr up to now."""
        return self._err.read_text(encoding="utf-8", errors="replace")

    def until(self, condition: Callable[[], object]) -> bool:
        """Waits until the condition holds; False if the process ended before."""
        limit = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > limit:
                return False
            time.sleep(0.001)
        return True

    def send(self, signum: signal.Signals) -> None:
        """Sends a signal; a process that has ended takes none."""
        self.process.send_signal(signum)

    def kill(self) -> int:
        """SIGKILL; returns the exit status, 0 if the process was done before."""
        self.send(signal.SIGKILL)
        return self.process.wait()

    def wait(self) -> int:
        """The exit status; a process that hangs is killed, and its status then is −9."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return self.kill()


class Lab:
    """A workspace with one uninterrupted run in it, whose every checkpoint is kept: the reference."""

    def __init__(self, workspace: Path, seed: int):
        """Trains the reference.

        Raises:
            RuntimeError: the uninterrupted run fails.
        """
        self.workspace, self.random = workspace, random.Random(seed)
        self.reference, self._numbers = workspace / "reference", iter(range(10**6))
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(workspace / "cache"),
        }
        self.environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        short = self.train(workspace / "compiling", *SETTINGS, "--iterations", "1")
        short.wait()
        run = self.train(self.reference, *SETTINGS, "--keep", str(ITERATIONS))
        if run.wait():
            raise RuntimeError(f"the uninterrupted run failed: {run.errors}")
        self.seconds = time.monotonic() - run.began
        self.config = dataclasses.replace(read_config(self.reference), keep=3)
        built = configs.build(self.config)
        self._template = initial_state(built, self.config)
        self.table = (self.reference / "metrics.csv").read_bytes()
        # Of every iteration, since a signal may stop a run at any: by the library's loop, without files and processes.
        self.states = {0: fingerprint(essence(self._template))}
        with jax.set_mesh(devices.mesh(1, tasks=2)):
            for chunk in train(built.algorithm, root_keys(self.config), ITERATIONS, chunk=1):
                self.states[chunk.done] = fingerprint(essence(chunk.state))
        for iteration in range(0, ITERATIONS + 1, EVERY):
            if not self.known(self.restore(self.reference, iteration)[0]):
                raise RuntimeError(f"the uninterrupted run and the library's loop differ at iteration {iteration}")

    def known(self, state: MetaState) -> bool:
        """Whether the state is that of its iteration in an undisturbed run, bit for bit."""
        return fingerprint(essence(state)) == self.states.get(int(state.iteration))

    def folder(self, name: str) -> Path:
        """A path for a run folder that is not there yet."""
        return self.workspace / f"{next(self._numbers)}-{name}"

    def stopped_at(self, iteration: int, folder: Path, *, checkpoints: int = 1) -> Path:
        """Makes the folder of a run that was killed after `iteration`, with the last so many checkpoints."""
        folder.mkdir(parents=True)
        write_config(self.config, folder)
        (folder / "metrics.csv").write_bytes(self.rows_before(iteration) if iteration else b"")
        for age in range(checkpoints):
            name = f"checkpoints/{iteration - age * EVERY}"
            shutil.copytree(self.reference / name, folder / name)
        return folder

    def train(self, folder: Path, *flags: str, program: Sequence[str] = (str(TRAIN),), devices: int = 1) -> Run:
        """Starts a training process of so many devices; the program is what Python is given before the flags."""
        command = [sys.executable, *program, "--folder", str(folder), *flags]
        environment = {**self.environment, "JAX_NUM_CPU_DEVICES": str(devices)}
        return Run(command, environment, self.workspace / f"log-{next(self._numbers)}")

    def resume(self, folder: Path, *flags: str) -> Run:
        """Starts a process that goes on with a run."""
        return self.train(folder, "--resume", *flags)

    def restore(self, folder: Path, iteration: int | None = None) -> tuple[MetaState, list[str]]:
        """The newest whole checkpoint, or that of an iteration, and the notes of the library about it."""
        checkpoints = Checkpoints(folder, read_config(folder), self._template)
        try:
            return checkpoints.restore(iteration), checkpoints.notes
        finally:
            checkpoints.close()

    def all_finite(self, folder: Path) -> bool:
        """No checkpoint of the folder holds a NaN or an infinity."""
        numbers = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
        return all(finite(self.restore(folder, number)[0]) for number in numbers)

    def rows_before(self, iteration: int) -> bytes:
        """The reference's metrics.csv up to an iteration."""
        return b"".join(self.table.splitlines(keepends=True)[: iteration + 1])

    def kept(self, folder: Path, promise: Promises) -> int:
        """Checks what a stopped run left, and returns the iteration at which it will go on."""
        state, notes = self.restore(folder)
        iteration = int(state.iteration)
        promise(not notes, f"notes about a run that was only stopped: {notes}")
        promise(self.known(state), f"the checkpoint of iteration {iteration} is another")
        whole = (folder / "metrics.csv").read_bytes().rpartition(b"\n")[0]
        promise(self.table.startswith(whole), "the rows on disk are not the reference's")
        promise(rows(folder) >= iteration, f"{rows(folder)} rows on disk, fewer than the checkpoint's {iteration}")
        return iteration

    def finished(self, folder: Path, promise: Promises) -> tuple[bool, bool]:
        """Whether state and metrics.csv of a run that has ended equal the reference's."""
        state, notes = self.restore(folder)
        promise(not notes, f"notes about a finished run: {notes}")
        promise((folder / "evaluation.json").is_file(), "no evaluation.json")
        same = int(state.iteration) == ITERATIONS and self.known(state)
        return same, (folder / "metrics.csv").read_bytes() == self.table

    def go_on(self, folder: Path, promise: Promises) -> tuple[bool, bool]:
        """Resumes a run to its end; whether state and metrics.csv then equal the reference's."""
        run = self.resume(folder)
        promise.ended(run, 0)
        return self.finished(folder, promise) if run.wait() == 0 else (False, False)


@contextlib.contextmanager
def small_disk(where: Path, kibibytes: int) -> Iterator[Callable[[str], object]]:
    """A tmpfs of that size; yields what remounts it with other options.

    Raises:
        PermissionError: only root can mount one.
    """
    if os.geteuid():
        raise PermissionError("a small disk is a tmpfs, which only root can mount")
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", where], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", where], check=True)
    finally:
        subprocess.run(["umount", where], check=True)


def pages(folder: Path) -> int:
    """KiB that the files of a folder take on a tmpfs, in pages of 4 KiB."""
    return sum(4 * math.ceil(path.stat().st_size / 4096) for path in files(folder))


def column(folder: Path, name: str) -> list[float]:
    """A column of metrics.csv."""
    header, *body = [line.split(",") for line in (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    return [float(row[header.index(name)]) for row in body]


def owner(folder: Path) -> int:
    """The process that the lock names."""
    return json.loads((folder / "lock").read_text(encoding="utf-8"))["process"]
