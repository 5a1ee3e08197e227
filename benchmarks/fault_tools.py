"""Tools for the faults of `benchmarks.faults`: training processes, a reference run, and comparisons."""

import dataclasses
import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.fault_runs import ROOT, TRAIN, Promises, Run, rows
from metarl_jax import devices
from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
from metarl_jax.runs.checkpoint.states import initial_state, root_keys
from metarl_jax.runs.config.file import read_config, write_config
from metarl_jax.training import train
from metarl_jax.types import MetaState, PyTree

ITERATIONS, EVERY = 400, 8
SETTINGS = (
    f"--task point-nav --algorithm promp --tasks 2 --episodes 2 --horizon 10 --hidden 8 8 --iterations {ITERATIONS} "
    f"--checkpoint-every {EVERY} --eval-tasks 2 --eval-steps 1"
).split()

# A checkpoint is written during the next chunk, and the one after it waits, so this is the maximum loss.
BOUND = 2 * EVERY


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of one fault."""

    fault: str
    when: str
    lost: str
    theta: bool | None = None
    """whether the state (θ, optimizer, iteration) equals the reference's bit for bit; None: not compared"""
    metrics: bool | None = None
    """whether metrics.csv equals the reference's byte for byte"""
    problems: tuple[str, ...] = ()
    """broken promises"""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost or changed, and all promises were kept."""
        return self.theta is not False and self.metrics is not False and not self.problems


def fingerprint(tree: PyTree) -> str:
    """SHA-256 over the leaves' types, shapes and bytes: equal only for bitwise equal trees."""
    total = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(tree)):
        total.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return total.hexdigest()


def essence(state: MetaState) -> PyTree:
    """The part of the state that determines later results, without the rollback target, which depends on
    --checkpoint-every."""
    return state.params, state.opt_state.opt_state, state.iteration


def finite(tree: PyTree) -> bool:
    """Whether all leaves are finite."""
    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(tree))


class Lab:
    """A workspace with the reference: an uninterrupted run with all of its checkpoints."""

    def __init__(self, workspace: Path, seed: int, settings: Sequence[str] = SETTINGS):
        """Trains the reference.

        Args:
            workspace: an empty folder.
            seed: seed of the times of faults.
            settings: arguments of experiments/train.py for the reference.

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
        short = self.train(workspace / "compiling", *settings, "--iterations", "1")
        short.wait()
        run = self.train(self.reference, *settings, "--keep", str(10**6))
        if run.wait():
            raise RuntimeError(f"the uninterrupted run failed: {run.errors}")
        self.seconds = time.monotonic() - run.began
        self.config = dataclasses.replace(read_config(self.reference), keep=3)
        self.iterations, self.every = self.config.iterations, self.config.checkpoint_every
        built = configs.build(self.config)
        self._template = initial_state(built, self.config)
        self.table = (self.reference / "metrics.csv").read_bytes()
        # States of all iterations, since a signal may stop a run at any; computed in this process, without files.
        self.states = {0: fingerprint(essence(self._template))}
        with jax.set_mesh(devices.mesh(1, tasks=2)):
            for chunk in train(built.algorithm, root_keys(self.config), self.iterations, chunk=1):
                self.states[chunk.done] = fingerprint(essence(chunk.state))
        for iteration in range(0, self.iterations + 1, self.every):
            if not self.known(self.restore(self.reference, iteration)[0]):
                raise RuntimeError(f"the uninterrupted run and the library's loop differ at iteration {iteration}")

    def known(self, state: MetaState) -> bool:
        """Whether the state equals that of its iteration in the reference, bit for bit."""
        return fingerprint(essence(state)) == self.states.get(int(state.iteration))

    def folder(self, name: str) -> Path:
        """A new path for a run folder."""
        return self.workspace / f"{next(self._numbers)}-{name}"

    def stopped_at(self, iteration: int, folder: Path, *, checkpoints: int = 1) -> Path:
        """Creates the folder of a run that was killed after `iteration`, with its last checkpoints."""
        folder.mkdir(parents=True)
        write_config(self.config, folder)
        (folder / "metrics.csv").write_bytes(self.rows_before(iteration) if iteration else b"")
        for age in range(checkpoints):
            name = f"checkpoints/{iteration - age * self.every}"
            shutil.copytree(self.reference / name, folder / name)
        return folder

    def train(self, folder: Path, *flags: str, program: Sequence[str] = (str(TRAIN),), devices: int = 1) -> Run:
        """Starts a training process with this number of devices; `program` is passed to Python before the flags."""
        command = [sys.executable, *program, "--folder", str(folder), *flags]
        environment = {**self.environment, "JAX_NUM_CPU_DEVICES": str(devices)}
        return Run(command, environment, self.workspace / f"log-{next(self._numbers)}")

    def resume(self, folder: Path, *flags: str) -> Run:
        """Starts a process that resumes a run."""
        return self.train(folder, "--resume", *flags)

    def restore(self, folder: Path, iteration: int | None = None) -> tuple[MetaState, list[str]]:
        """The newest intact checkpoint, or that of an iteration, and the library's notes about it."""
        checkpoints = Checkpoints(folder, read_config(folder), self._template)
        try:
            return checkpoints.restore(iteration), checkpoints.notes
        finally:
            checkpoints.close()

    def all_finite(self, folder: Path) -> bool:
        """Whether all checkpoints of the folder are finite."""
        numbers = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
        return all(finite(self.restore(folder, number)[0]) for number in numbers)

    def rows_before(self, iteration: int) -> bytes:
        """The reference's metrics.csv up to an iteration."""
        return b"".join(self.table.splitlines(keepends=True)[: iteration + 1])

    def kept(self, folder: Path, promise: Promises) -> int:
        """Checks the folder of a stopped run; returns the iteration at which it will resume."""
        state, notes = self.restore(folder)
        iteration = int(state.iteration)
        notes = [note for note in notes if "was written with" not in note]  # another Python version
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
        same = int(state.iteration) == self.iterations and self.known(state)
        return same, (folder / "metrics.csv").read_bytes() == self.table

    def go_on(self, folder: Path, promise: Promises) -> tuple[bool, bool]:
        """Resumes a run to its end; returns whether state and metrics.csv equal the reference's."""
        run = self.resume(folder)
        promise.ended(run, 0)
        return self.finished(folder, promise) if run.wait() == 0 else (False, False)
