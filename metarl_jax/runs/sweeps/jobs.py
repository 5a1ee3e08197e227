"""Runs the members of a sweep in processes that submitit starts on this machine or on Slurm.

submitit runs a `Worker`, which runs a process that trains one member, or several in turn if they share their compiled
programs. The progress of members is read from their run folders only, so a sweep can be interrupted and restarted at
any time.
"""

import contextlib
import dataclasses
import fcntl
import importlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metarl_jax.checks import integer, unknown
from metarl_jax.runs.storage import files
from metarl_jax.runs.storage.folder import HELD, LOCK, owner, running

_HEADER, _FOOTER = "=== ", "--- "


@contextlib.contextmanager
def _ignored(signum: signal.Signals) -> Iterator[None]:
    """Ignores a signal, also in child processes started inside the context, unless they install a handler."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signum, before)


def _held(lock: Path) -> bool:
    """Whether a process holds the lock of a sweep's folder."""
    if files.there(lock.with_name(HELD)):
        return running(owner(lock.with_name(HELD)))
    try:
        with files.opened(lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the sweep's folder was removed
        return False
    return False


@dataclasses.dataclass
class Worker:
    """Runs a process that trains members, or goes on with them, also after a requeue."""

    command: tuple[str, ...]
    log: Path
    """file for the output"""
    environment: dict[str, str | None] = dataclasses.field(default_factory=dict)
    """environment variables to set, or to remove (None)"""
    lock: Path | None = None
    """lock of a sweep on this machine, whose end must end the member; None: the cluster manages the member"""
    _child: subprocess.Popen[bytes] | None = dataclasses.field(default=None, init=False)
    _stopping: bool = dataclasses.field(default=False, init=False)

    def __call__(self) -> int:
        """Runs the process; returns its exit status."""
        before = signal.signal(signal.SIGTERM, self._stop)
        try:
            return self._run()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _run(self) -> int:
        environment = {name: value for name, value in os.environ.items() if name not in self.environment}
        environment |= {name: value for name, value in self.environment.items() if value is not None}
        # Slurm sends SIGUSR2 to all processes of a job, which would end this one. Ctrl-C in a terminal goes to the
        # whole foreground process group, but only the sweep should receive it and forward it once.
        with files.opened(self.log, "a") as output, _ignored(signal.SIGUSR2):
            print(header(self.command), file=output, flush=True)
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=None if self.lock is None else 0,
            )
        if self._stopping:  # a stop was requested before the process existed
            self._child.terminate()
        while True:
            try:
                return self._child.wait(1.0)
            except subprocess.TimeoutExpired:
                if self.lock is not None and not _held(self.lock):
                    self._stop()

    def _stop(self, *_: Any) -> None:
        """Forwards SIGTERM once: a second one would end the member without a checkpoint."""
        if self._stopping:
            return
        self._stopping = True
        if self._child is not None and self.lock is not None:  # Slurm itself signals all processes of a job
            self._child.terminate()

    def checkpoint(self) -> Any:
        """Called by submitit before a time limit or a preemption: ends the member with a checkpoint and requeues it."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.terminate()
            while self._child.poll() is None:  # `wait` could deadlock, since this handler may have interrupted it
                time.sleep(0.1)
        return DelayedSubmission(dataclasses.replace(self))


@dataclasses.dataclass
class Started:
    """A submitit job that trains members; a `metarl_jax.runs.sweeps.drive.Job`."""

    job: Any
    logs: dict[str, Path]
    """of its members, in their order"""
    before: dict[str, int]
    """sizes of these files before the start"""
    local: bool
    cancelled: bool = False

    def done(self) -> bool:
        """Whether it has ended, for any reason."""
        return self.job.done()

    def stop(self) -> None:
        """Sends SIGTERM, or cancels the job of a cluster."""
        if self.local:  # `cancel` would send SIGKILL after one second, too early for a checkpoint
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.job.job_id), signal.SIGTERM)
        elif not self.cancelled:
            self.job.cancel(check=False)
        self.cancelled = True

    def begun(self, name: str) -> bool:
        """Whether the member's log has grown."""
        return _size(self.logs[name]) > self.before[name]

    def ended(self, name: str) -> bool:
        """Whether the member's log has come to an end again."""
        return self.begun(name) and _tail(self.logs[name]).startswith(_FOOTER)

    def last_words(self, name: str) -> str:
        """The last error line of its log, or else of the job's."""
        words = last_words(self.logs[name])
        if words and not self.ended(name):
            return f"its process died after: {words}"
        return words or _last_line(self.job.stderr() or "") or f"no output (state {self.job.state})"


def _tail(log: Path) -> str:
    """The last line; empty if it cannot be read."""
    try:
        with files.opened(log, "rb") as file:
            file.seek(max(0, _size(log) - 1000))
            return file.read().decode(errors="replace").rstrip().rpartition("\n")[2]
    except OSError:
        return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def log_of(folder: Path, name: str) -> Path:
    """The file with what a member of the sweep in this folder prints."""
    return folder / "logs" / f"{name}.log"


def header(command: Sequence[str]) -> str:
    """The line before the output of a start."""
    return f"{_HEADER}{time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}"


def footer() -> str:
    """The line after the output of a member, finished or not."""
    return f"{_FOOTER}{time.strftime('%Y-%m-%d %H:%M:%S')} ended"


def _last_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.startswith(_FOOTER)]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def last_words(log: Path) -> str:
    """The last error line of a member's latest start, or else its last line."""
    try:
        text = files.read(log, errors="replace")
    except OSError:  # it has not started
        text = ""
    return _last_line(("\n" + text).rpartition(f"\n{_HEADER}")[2].partition("\n")[2])


def _submitit() -> Any:
    # Otherwise its import would configure the logging of the whole process.
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    return importlib.import_module("submitit")


def slurm_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Parameters of submitit's Slurm executor, given as NAME=VALUE.

    Raises:
        ValueError: a pair is malformed, a name is unknown, there is no time limit, or Slurm is not installed.
    """
    from metarl_jax.runs.config import parse_options

    parameters, valid = parse_options("slurm", tuple(pairs)), _submitit().SlurmExecutor._valid_parameters()
    for name in parameters:
        if name not in valid:
            raise unknown("parameter of Slurm", name, sorted(valid))
    if "time" not in parameters:
        raise ValueError("Slurm needs a time limit; write --slurm time=MINUTES (a member is queued again there)")
    integer("slurm time", parameters["time"])
    if shutil.which("srun") is None:
        raise ValueError(
            "cluster is 'slurm', but there is no srun here; use --cluster local or a machine of the cluster"
        )
    return parameters


class Engine:
    """Starts processes for members with submitit."""

    def __init__(
        self, folder: Path, command: Sequence[str], *, slurm: dict[str, Any] | None = None, sharing: bool = False
    ):
        """Sets submitit up.

        Args:
            folder: folder of the sweep.
            command: trains the members whose names are appended.
            slurm: parameters of the Slurm executor; None: processes on this machine.
            sharing: whether several processes run at once on this machine, so that each must not use all of a GPU's
                memory or all cores.
        """
        submitit = _submitit()
        self._folder, self._command, self._local = folder, tuple(command), slurm is None
        (folder / "logs").mkdir(exist_ok=True)
        # Workers execute the pickles in this folder, so each start creates a new one that only its user can access.
        (folder / "submitit").mkdir(exist_ok=True)
        pickles = tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=folder / "submitit")
        if slurm is None:
            self._executor = submitit.LocalExecutor(pickles)
            self._executor.update_parameters(timeout_min=60 * 24 * 365)  # the default is two minutes
        else:
            self._executor = submitit.SlurmExecutor(pickles, max_num_timeout=1000)
            self._executor.update_parameters(**slurm)
        # submitit's local executor hides all GPUs that were not asked for.
        self._environment = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")} if self._local else {}
        if sharing and self._local:
            # Parallel members already use all cores, for which MuJoCo's threads would compete.
            for variable, shared in {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "METARL_MUJOCO_THREADS": "1"}.items():
                self._environment.setdefault(variable, os.environ.get(variable, shared))

    def start(self, names: Sequence[str]) -> Started:
        """Starts or queues a process for members, which it trains one after the other.

        Raises:
            OSError: the cluster rejects it.
        """
        from submitit.core.utils import FailedJobError

        logs = {name: log_of(self._folder, name) for name in names}
        lock = self._folder / LOCK if self._local else None
        worker = Worker((*self._command, *names), logs[names[0]], self._environment, lock)
        before = {name: _size(log) for name, log in logs.items()}
        try:
            with _ignored(signal.SIGINT), _ignored(signal.SIGHUP):  # only the sweep handles signals of the terminal
                return Started(self._executor.submit(worker), logs, before, self._local)
        except FailedJobError as error:
            raise OSError(_last_line(str(error))) from error
