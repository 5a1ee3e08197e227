"""Members of a sweep as processes: submitit starts them, on this machine or by Slurm, and train.py does the work.

submitit runs a `Worker`, which runs train.py in a process of its own. What a member has reached is read from its run
folder and never from the engine, so a sweep can be cut off and started again at any moment.
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
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from metarl_jax.checks import integer, unknown
from metarl_jax.runs import files
from metarl_jax.runs.folder import HELD, LOCK, owner, running

_HEADER = "=== "


class Job(Protocol):
    """A member that was started."""

    def done(self) -> bool:
        """Whether it has ended, for whatever reason."""
        ...

    def stop(self) -> None:
        """Asks it to write a checkpoint and end; may be called again until it has."""

    def last_words(self) -> str:
        """The line that says why it ended."""
        ...


@contextlib.contextmanager
def _ignored(signum: signal.Signals) -> Iterator[None]:
    """What a process ignores, the processes that it starts ignore too, unless they handle it themselves."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signum, before)


def _held(lock: Path) -> bool:
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
    """Runs train.py for a member; resumes it where it has begun, on a requeue too."""

    command: tuple[str, ...]
    """that starts the member"""
    folder: Path
    """of its run"""
    log: Path
    """where its output goes"""
    environment: dict[str, str | None] = dataclasses.field(default_factory=dict)
    """variables that the process is to have, or not to have"""
    lock: Path | None = None
    """held by a sweep on this machine, which the member must not outlive; None: the cluster looks after the member"""
    _child: subprocess.Popen[bytes] | None = dataclasses.field(default=None, init=False)
    _stopping: bool = dataclasses.field(default=False, init=False)

    def __call__(self) -> int:
        """Runs the member to its end; returns train.py's exit status."""
        before = signal.signal(signal.SIGTERM, self._stop)
        try:
            return self._run()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _run(self) -> int:
        begun = (self.folder / "config.json").is_file()
        command = [*self.command, "--resume"] if begun else [*self.command]
        environment = {name: value for name, value in os.environ.items() if name not in self.environment}
        environment |= {name: value for name, value in self.environment.items() if value is not None}
        # Slurm sends SIGUSR2, which would end train.py, to all processes of a job. Ctrl-C in a terminal reaches all of
        # the foreground's process group: the sweep alone is to hear it, and to pass it on once.
        with files.opened(self.log, "a") as output, _ignored(signal.SIGUSR2):
            print(f"{_HEADER}{time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}", file=output, flush=True)
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                process_group=None if self.lock is None else 0,
            )
        if self._stopping:  # asked to before there was a process to pass it on to
            self._child.terminate()
        while True:
            try:
                return self._child.wait(1.0)
            except subprocess.TimeoutExpired:
                if self.lock is not None and not _held(self.lock):
                    self._stop()

    def _stop(self, *_: Any) -> None:
        """Passes SIGTERM on, once: a second one may be an order to leave the checkpoint be."""
        if self._stopping:
            return
        self._stopping = True
        if self._child is not None and self.lock is not None:  # Slurm signals the processes of a job itself
            self._child.terminate()

    def checkpoint(self) -> Any:
        """What submitit calls before a time limit or a preemption: the member ends well and is queued again."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.terminate()
            while self._child.poll() is None:  # `wait` could wait for this very thread, which it has interrupted
                time.sleep(0.1)
        return DelayedSubmission(dataclasses.replace(self))


@dataclasses.dataclass
class _Started:
    """A job of submitit."""

    job: Any
    log: Path
    local: bool
    cancelled: bool = False

    def done(self) -> bool:
        return self.job.done()

    def stop(self) -> None:
        if self.local:  # its own `cancel` leaves one second before SIGKILL, too little for a checkpoint
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.job.job_id), signal.SIGTERM)
        elif not self.cancelled:
            self.job.cancel(check=False)
        self.cancelled = True

    def last_words(self) -> str:
        return last_words(self.log) or _last_line(self.job.stderr() or "") or f"no output (state {self.job.state})"


def _last_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def last_words(log: Path) -> str:
    """The last error that a member's newest start wrote, or else its last line."""
    try:
        text = files.read(log, errors="replace")
    except OSError:  # it has not begun
        text = ""
    return _last_line(("\n" + text).rpartition(f"\n{_HEADER}")[2].partition("\n")[2])


def _submitit() -> Any:
    # At its import it would set up the logging of the whole process, and print its own warnings.
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    return importlib.import_module("submitit")


def slurm_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Parameters of submitit's Slurm executor, given as NAME=VALUE.

    Raises:
        ValueError: a pair is no such pair, the name is unknown, there is no time limit, or no Slurm.
    """
    from metarl_jax.runs.config import parse_options

    found, known = parse_options("slurm", tuple(pairs)), _submitit().SlurmExecutor._valid_parameters()
    for name in found:
        if name not in known:
            raise unknown("parameter of Slurm", name, sorted(known))
    if "time" not in found:
        raise ValueError("Slurm needs a time limit; write --slurm time=MINUTES (who reaches it is queued again)")
    integer("slurm time", found["time"])
    if shutil.which("srun") is None:
        raise ValueError(
            "cluster is 'slurm', but there is no srun here; use --cluster local or a machine of the cluster"
        )
    return found


class Engine:
    """Starts members by submitit."""

    def __init__(
        self, folder: Path, command: Sequence[str], *, slurm: dict[str, Any] | None = None, sharing: bool = False
    ):
        """Sets submitit up.

        Args:
            folder: of the sweep.
            command: what runs train.py.
            slurm: parameters of the Slurm executor; None: processes on this machine.
            sharing: whether several processes of this machine run at once, so that none may take all of a GPU's
                memory or all cores.
        """
        submitit = _submitit()
        self._folder, self._command, self._local = folder, tuple(command), slurm is None
        (folder / "logs").mkdir(exist_ok=True)
        # Workers run what they unpickle there: each start has a folder of its own, which is its user's alone.
        (folder / "submitit").mkdir(exist_ok=True)
        pickles = tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=folder / "submitit")
        if slurm is None:
            self._executor = submitit.LocalExecutor(pickles)
            self._executor.update_parameters(timeout_min=60 * 24 * 365)  # its default is two minutes
        else:
            self._executor = submitit.SlurmExecutor(pickles, max_num_timeout=1000)
            self._executor.update_parameters(**slurm)
        # submitit's local executor hides all GPUs that were not asked for.
        self._environment = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")} if self._local else {}
        if sharing and self._local:
            # Members that run side by side keep the cores busy already: MuJoCo's threads would fight for them.
            for variable, shared in {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "METARL_MUJOCO_THREADS": "1"}.items():
                self._environment.setdefault(variable, os.environ.get(variable, shared))

    def start(self, name: str, arguments: Sequence[str]) -> Job:
        """Starts a member, or queues it.

        Raises:
            OSError: the cluster does not take it.
        """
        from submitit.core.utils import FailedJobError

        log = self._folder / "logs" / f"{name}.log"
        worker = Worker(
            (*self._command, *arguments),
            self._folder / name,
            log,
            self._environment,
            self._folder / LOCK if self._local else None,
        )
        try:
            with _ignored(signal.SIGINT), _ignored(signal.SIGHUP):  # the sweep alone is to hear of its terminal
                return _Started(self._executor.submit(worker), log, self._local)
        except FailedJobError as error:
            raise OSError(_last_line(str(error))) from error


def drive(
    names: Sequence[str],
    start: Callable[[str], Job],
    *,
    jobs: int,
    finished: Callable[[str], bool],
    say: Callable[[str], None],
    stopping: Callable[[], bool],
    interval: float = 0.2,
) -> dict[str, str]:
    """Runs members, some at a time, until all have ended; one that fails does not stop the others.

    Args:
        names: of the members.
        start: starts one.
        jobs: how many run at once.
        finished: whether a member's run folder is complete.
        say: takes a line about a member that was started or has ended.
        stopping: whether to start no more and to stop those that run.
        interval: seconds between two looks.

    Returns:
        The last words of every member that ended before it was finished, those that were stopped left out.
    """
    waiting, running, failures = deque(names), {}, {}
    began: dict[str, float] = {}

    def ended(name: str, words: str | None) -> None:
        if words is not None:
            failures[name] = words
        seconds = time.monotonic() - began[name]
        left = len(waiting) + len(running)
        how = "finished" if finished(name) else "stopped " if words is None else "failed  "
        text = f"{how} {name} after {seconds / 60:.1f} min, {left} to go"
        say(text if words is None else f"{text}: {words}")

    while running or (waiting and not stopping()):
        while waiting and len(running) < jobs and not stopping():
            name = waiting.popleft()
            began[name] = time.monotonic()
            try:
                running[name] = start(name)
            except OSError as error:
                ended(name, str(error))
                continue
            say(f"started  {name}, {len(running)} running, {len(waiting)} waiting")
        for name, job in list(running.items()):
            if job.done():
                del running[name]
                ended(name, None if finished(name) or stopping() else job.last_words())
            elif stopping():
                job.stop()
        time.sleep(1.0 if stopping() and interval else interval)
    return failures
