"""Loggers for metrics: `metrics.csv`, which is exactly reproducible, TensorBoard, and Weights & Biases.

Times and rates are not reproducible, so they are written to `timing.csv` instead of `metrics.csv`.
"""

import csv
import importlib
import os
import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from metarl_jax.runs.storage import files


class Logger(Protocol):
    """Interface of a logger."""

    def log(self, iteration: int, seed: int, metrics: dict[str, Any]) -> None:
        """Logs the scalars (NumPy or Python numbers) of one iteration and seed."""

    def flush(self) -> None:
        """Makes all logged values visible to readers; called after each chunk."""

    def close(self) -> None:
        """Closes the logger."""


def rows(metrics: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One dict of NumPy scalars per iteration, from leaves [n, ...].

    Return and gain come first, the others are sorted. Entries of vectors are numbered, as in return_0, return_1.
    """
    names = sorted(metrics, key=lambda name: (name != "return", name != "gain", name))
    cells = [
        ("_".join([name, *map(str, index)]), metrics[name], index)
        for name in names
        for index in np.ndindex(metrics[name].shape[1:])
    ]
    count = len(metrics[names[0]]) if names else 0
    return [{column: values[(i, *index)] for column, values, index in cells} for i in range(count)]


def _text(value: Any) -> str:
    """The shortest decimal that reads back as the same number of the same type."""
    return str(int(value)) if isinstance(value, bool | np.bool_) else str(value)


_RESTORE = "restore it, or start another run by another --folder"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


class TableLogger:
    """A CSV file with one row per iteration and seed; iterations are counted from 0 without gaps."""

    def __init__(self, path: Path, resume_at: int | None = None, seeds: int = 1):
        """Creates a file, or continues an existing one.

        Args:
            path: path of the file.
            resume_at: iteration to resume at; later rows, which a killed run may have written after its last
                checkpoint, are dropped. None: create a new file.
            seeds: rows per iteration.

        Raises:
            ValueError: the file to continue is missing or lacks a row.
            FileExistsError: the new file already exists.
        """
        self._header: list[str] | None = None
        if resume_at is None:
            self._file = files.opened(path, "x", newline="")
            return
        if not files.there(path):
            raise ValueError(f"{path} is missing, so the run cannot go on at iteration {resume_at}; {_RESTORE}")
        lines = files.read(path, errors="replace").splitlines(keepends=True)
        retained = lines[: resume_at * seeds + 1] if resume_at else []
        expected = ["iteration", *(str(row // seeds) for row in range(resume_at * seeds))] if resume_at else []
        self._header = next(csv.reader(retained[:1]), None)  # a name in it may hold a comma
        intact = all(line.endswith("\n") for line in retained)
        for line in retained[1:]:
            cells = line.split(",")
            intact = intact and len(cells) == len(self._header or ()) and all(map(_is_number, cells))
        if [line.partition(",")[0] for line in retained] != expected or not intact:
            raise ValueError(
                f"{path} does not hold iterations 0 to {resume_at - 1} in order, where the run would go on; {_RESTORE}"
            )
        files.write(path, "".join(retained))
        self._file = files.opened(path, "a", newline="")

    def log(self, iteration: int, seed: int, metrics: dict[str, Any]) -> None:
        """Appends a row.

        Raises:
            ValueError: the metrics are not those of the header.
        """
        row = {"iteration": iteration, "seed": seed, **{name: _text(value) for name, value in metrics.items()}}
        writer = csv.writer(self._file, lineterminator="\n")
        if self._header is None:
            self._header = [*row]
            writer.writerow(self._header)
        if row.keys() != {*self._header}:
            new, gone = (
                ", ".join(sorted(names)) for names in (row.keys() - self._header, {*self._header} - row.keys())
            )
            raise ValueError(
                f"the metrics are others than those of {self._file.name}: new are {new or 'none'}, gone are "
                f"{gone or 'none'}; go on with the code that began the run, or start another by another --folder"
            )
        writer.writerow([row[name] for name in self._header])

    def flush(self) -> None:
        """Writes all rows to disk, so that a checkpoint is never ahead of the table."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TimingLog:
    """timing.csv, one row per chunk. Unlike with metrics.csv, a resumed run only appends rows."""

    def __init__(self, path: Path):
        self._file = files.opened(path, "a")
        if not self._file.tell():
            self._file.write("iteration,seconds,environment_steps_per_second\n")

    def log(self, done: int, seconds: float, steps: float) -> None:
        """Logs a chunk with `steps` environment steps, after which `done` iterations were complete."""
        self._file.write(f"{done},{seconds},{steps / seconds}\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _events_name(folder: Path) -> str:
    """The beginning of a file's name that comes last in the folder.

    TensorBoard reads a folder's files in the order of their names, and the later hides what it repeats of the earlier.
    Names of earlier versions have a hexadecimal number in the place of the "r". The rest is random, since
    tensorboardX's own name (time and host) could be a link, or a file of the same second.
    """
    numbers = [int(found[1]) for path in folder.iterdir() if (found := re.match(r"events\.r(\d+)\.", path.name))]
    return f"events.r{max(numbers, default=0) + 1:06d}.{secrets.token_hex(4)}"


class TensorBoardLogger:
    """TensorBoard events in a folder, or in one subfolder per seed; on resume, points from `resume_at` on are hidden.

    Events are written in the calling thread, not by tensorboardX's writer thread: on a full disk the latter would end
    with a traceback, and the training loop would wait for it indefinitely.
    """

    def __init__(self, folder: Path, resume_at: int | None = None, seeds: Sequence[int] = (0,)):
        from tensorboardX.event_file_writer import EventsWriter

        # Generated by protobuf at import, so type checkers do not know it.
        events: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self._event = events.Event
        self._summary: Any = importlib.import_module("tensorboardX.proto.summary_pb2").Summary
        self._writers = {}
        for seed in seeds:
            # The path is absolute, since tensorboardX reads the text before a colon as a protocol.
            path = folder.absolute() / f"seed-{seed}" if len(seeds) > 1 else folder.absolute()
            path.mkdir(parents=True, exist_ok=True)
            self._writers[seed] = EventsWriter(str(path / _events_name(path)))
            if resume_at is not None:
                start = events.SessionLog(status=events.SessionLog.START)
                self._writers[seed].write_event(events.Event(step=resume_at, session_log=start))

    def log(self, iteration: int, seed: int, metrics: dict[str, Any]) -> None:
        """Adds the finite values to their curves."""
        points = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in metrics.items()
            if np.isfinite(value)
        ]
        event = self._event(wall_time=time.time(), step=iteration, summary=self._summary(value=points))
        self._writers[seed].write_event(event)

    def flush(self) -> None:
        """Writes the events out."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


def require_wandb(project: str) -> Any:
    """The module wandb.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ValueError(
            f"wandb is {project!r}, but wandb is not installed: pip install 'metarl-jax[wandb]'"
        ) from error


class WandbLogger:
    """Weights & Biases logger; a resumed run keeps its id, which is in the folder's file `wandb-id`."""

    def __init__(self, project: str, folder: Path, configuration: dict[str, Any], seeds: int = 1):
        """Starts the run; with several seeds, metric names are prefixed with the seed.

        Raises:
            ValueError: wandb is not installed, or refuses to start.
        """
        wandb = require_wandb(project)
        self._several = seeds > 1
        name, identity = folder.resolve().name, folder / "wandb-id"
        if not files.there(identity):  # random, since other folders may have the same name
            allowed = re.sub(r"[^\w.=,@+-]", "_", name)
            begun_earlier = (folder / "wandb").is_dir()  # by a version that took the name
            files.write(identity, allowed if begun_earlier else f"{allowed}-{secrets.token_hex(4)}")
        try:
            self._run = wandb.init(
                project=project,
                id=files.read(identity).strip(),
                dir=str(folder),
                config=configuration,
                resume="allow",
                reinit="create_new",  # a sweep has several in one process
                name=name,
            )
        except getattr(wandb, "Error", ()) as error:
            raise ValueError(
                f"wandb is {project!r}, and W&B does not start: {error} (WANDB_MODE=offline does without its server)"
            ) from error

    def log(self, iteration: int, seed: int, metrics: dict[str, Any]) -> None:
        """Adds the values to their curves."""
        prefix = f"seed-{seed}/" if self._several else ""
        self._run.log({prefix + name: float(value) for name, value in metrics.items()}, step=iteration)

    def flush(self) -> None:
        """Nothing to do: wandb uploads in the background."""

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()
