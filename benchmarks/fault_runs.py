"""Tools for tests with real processes: processes, promises (checks), and files on disk.

Shared by `benchmarks.faults` and `benchmarks.hostile`. Importing this module does not import JAX.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT / "experiments" / "train.py"

UNFINISHED = "*.orbax-checkpoint-tmp"
"""Pattern of a checkpoint's name during its write."""

PATIENCE = 60.0
"""Seconds after which a process counts as hung."""


class Promises:
    """Collects broken promises."""

    def __init__(self):
        self.broken: list[str] = []

    def __call__(self, kept: object, promise: str) -> None:
        """Records the promise if it is broken."""
        if not kept:
            self.broken.append(promise)

    def ended(self, run: "Run", status: int, *words: str) -> None:
        """Promises that the run ended with this status and, unless it is 0, one line on stderr with these words."""
        found = run.wait()
        self(found == status, f"status {found} instead of {status}: {run.errors[-300:]!r}")
        lines = run.errors.splitlines()
        self(len(lines) == (status != 0), f"{len(lines)} lines on stderr: {run.errors[-300:]!r}")
        for word in words:
            self(word in run.errors, f"stderr does not say {word!r}: {run.errors[-300:]!r}")


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files below a folder, without the lock, whose content names the last owner."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in files(folder) if path.name != "lock"}


def files(folder: Path) -> list[Path]:
    """All files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rows(folder: Path) -> int:
    """Number of complete rows of metrics.csv."""
    with contextlib.suppress(FileNotFoundError):
        return max(0, (folder / "metrics.csv").read_bytes().count(b"\n") - 1)
    return 0


def unfinished(folder: Path) -> set[int]:
    """Inodes of incomplete checkpoints."""
    found = set()
    for path in (folder / "checkpoints").glob(UNFINISHED):
        with contextlib.suppress(FileNotFoundError):  # completed in the meantime
            found.add(path.stat().st_ino)
    return found


class Run:
    """A process with output in files."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path, **options: Any):
        """Starts the process; `options` are passed to `subprocess.Popen`."""
        self.began = time.monotonic()
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            usual = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
            self.process = subprocess.Popen(command, env=environment, **usual | options)

    @property
    def output(self) -> str:
        """The current stdout."""
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def errors(self) -> str:
        """The current stderr."""
        return self._err.read_text(encoding="utf-8", errors="replace")

    def until(self, condition: Callable[[], object]) -> bool:
        """Waits until the condition holds; returns False if the process ended before."""
        limit = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > limit:
                return False
            time.sleep(0.001)
        return True

    def send(self, signum: signal.Signals) -> None:
        """Sends a signal, unless the process has ended."""
        self.process.send_signal(signum)

    def kill(self) -> int:
        """Sends SIGKILL; returns the exit status, 0 if the process had finished."""
        self.send(signal.SIGKILL)
        return self.process.wait()

    def wait(self) -> int:
        """Waits for the exit status; a process that hangs is killed and has status −9."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return self.kill()


@contextlib.contextmanager
def small_disk(where: Path, kibibytes: int) -> Iterator[Callable[[str], object]]:
    """Mounts a tmpfs of this size; yields a function that remounts it with other options.

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
    """Size in KiB of a folder's files on a tmpfs, with pages of 4 KiB."""
    return sum(4 * math.ceil(path.stat().st_size / 4096) for path in files(folder))


def column(folder: Path, name: str) -> list[float]:
    """A column of metrics.csv."""
    header, *body = [line.split(",") for line in (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    return [float(row[header.index(name)]) for row in body]


def owner(folder: Path) -> int:
    """The process named in the lock."""
    return json.loads((folder / "lock").read_text(encoding="utf-8"))["process"]
