"""Tools of the hostile cases: case definitions, folders, execution and checks.

Importing this module does not import JAX: tests and docs read the table of cases.
"""

import dataclasses
import functools
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.fault_runs import ROOT, TRAIN, Promises, Run, small_disk

if TYPE_CHECKING:
    from benchmarks.fault_tools import Lab

ITERATIONS, EVERY = 200, 4
SETTINGS = (
    "--task point-nav --algorithm maml --tasks 2 --episodes 2 --horizon 3 --hidden 2 "
    f"--iterations {ITERATIONS} --checkpoint-every {EVERY} --eval-tasks 2 --eval-steps 1"
).split()

Keeps = Literal["unchanged", "whole", "sound", "unborn", "sweep", "pictures"]
KEEPS: dict[Keeps, str] = {
    "unchanged": "nothing changed, and nothing new",
    "whole": "trained to its end, equal to the undisturbed run bit for bit, and evaluated",
    "sound": "the newest checkpoint is one of the undisturbed run, bit for bit",
    "unborn": "nothing changed but for a folder that the same command can start in",
    "pictures": "evaluated or drawn; all else of the run unchanged",
    "sweep": "every member finished, and its checkpoint sound",
}
"""Conditions on files; nothing outside the folder of the run or the sweep may change in any case."""

DONE: dict[int, Keeps] = {0: "whole"}
DREW: dict[int, Keeps] = {0: "pictures"}
REFUSED: dict[int, Keeps] = {2: "unchanged"}
EITHER = DONE | REFUSED
DREW_OR_REFUSED = DREW | REFUSED


@dataclasses.dataclass(frozen=True)
class Place:
    """The folder of a case: ``run``, and ``outside``, which belongs to another user."""

    path: Path
    lab: "Lab"
    folder: str = "run"

    @property
    def run(self) -> Path:
        """Folder of the run, or of the sweep."""
        return self.path / self.folder

    @property
    def top(self) -> Path:
        """The first part of the folder's path below the place."""
        return self.path / Path(self.folder).parts[0]


Prepare = Callable[[Place], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A command under certain conditions, and requirements on its exit status, stderr, and files.

    In all cases, stderr has at most one line, and none for status 0; there is no traceback; the process ends in time
    and leaves no child processes.
    """

    kind: str
    name: str
    """unique name"""
    command: str
    """a script's name and its arguments, in shell syntax"""
    words: tuple[str, ...] = ()
    """further arguments, verbatim"""
    ends: Mapping[int, Keeps]
    """allowed exit status (negative for a signal) → required condition on the files"""
    says: str = ""
    """pattern of the line on stderr, if any"""
    shows: str = ""
    """text that stdout must contain for status 0"""
    start: int | None = ITERATIONS - EVERY
    """iteration at which the existing run was stopped; ITERATIONS: it is finished; None: there is no run"""
    folder: str = "run"
    """of the run"""
    prepare: tuple[Prepare, ...] = ()
    """changes the place before the start"""
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    """environment variables; None unsets one"""
    shell: str = 'exec "$@"'
    """bash template for the command, for example to close a stream"""
    terminal: tuple[int, int] | None = None
    """rows and columns, if stdout is a terminal"""
    disturb: Callable[[Run, Place], object] | None = None
    """action during the run; returns whether it took place"""
    then: bool = False
    """whether to resume the run afterwards, to the reference's final state"""
    disk: int | None = None
    """free KiB on the disk of the place"""
    inodes: bool = False
    """whether the disk lacks inodes instead of blocks"""
    root: bool = False
    """whether it needs root"""


def inventory(folder: Path, without: Path | None = None) -> dict[str, object]:
    """All files, folders, links and special files below a folder with mode and content, without following links.

    The content of locks, which names the last owner, is omitted.
    """
    found: dict[str, object] = {}
    for directory, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(directory, name)
            if path == without:
                folders[:] = [other for other in folders if other != name]
                continue
            mode = path.lstat().st_mode
            content: object = None
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode) and name != "lock":
                content = path.read_bytes()
            found[os.fsdecode(path.relative_to(folder))] = (oct(mode), content)
    return found


def changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Names of new, missing and changed entries."""
    return [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def survivors(session: int) -> list[int]:
    """Running processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):  # it ended in the meantime
                continue
            if int(fields[2]) == session and state not in "ZX":
                found.append(int(entry.name))
    return found


def command_of(case: Case) -> list[str]:
    """The command line of a case for bash, which itself does not get the variables of the case."""
    script, *arguments = shlex.split(case.command)
    program = [sys.executable, str(ROOT / "experiments" / f"{script}.py")]
    if script == "python":
        program = [sys.executable]
    arguments = [str(TRAIN) if word == "TRAIN" else word for word in arguments]
    variables = [f"{name}={value}" for name, value in case.environment.items() if value is not None]
    gone = [word for name, value in case.environment.items() if value is None for word in ("-u", name)]
    surroundings = ["env", *gone, *variables] if case.environment else []
    return ["bash", "-c", case.shell, "bash", *surroundings, *program, *arguments, *case.words]


def start(case: Case, place: Place, environment: Mapping[str, str], log: Path) -> Run:
    """Starts the process of a case in a new session."""
    options: dict[str, Any] = {"cwd": place.path, "start_new_session": True}
    if case.terminal is None:
        return Run(command_of(case), environment, log, **options)
    from benchmarks.hostile_terminal import terminal

    with terminal(*case.terminal, log.with_suffix(".out")) as end:
        return Run(command_of(case), environment, log, **options, stdout=end)


def judge(case: Case, place: Place, environment: Mapping[str, str], log: Path) -> tuple[str, ...]:
    """Runs a case; returns the broken promises."""
    promise = Promises()
    before, inside = inventory(place.path, place.top), inventory(place.run)
    existed = place.run.exists()
    run = start(case, place, environment, log)
    came = case.disturb is None or case.disturb(run, place)
    status = run.wait()
    promise(came, "it ended before it was disturbed")
    promise(
        status in case.ends, f"status {status} instead of {' or '.join(map(str, case.ends))}: {run.errors[-300:]!r}"
    )
    lines = run.errors.splitlines()
    promise(len(lines) <= (status != 0), f"{len(lines)} lines on stderr at status {status}: {run.errors[-300:]!r}")
    promise("Traceback" not in run.errors + run.output, f"a traceback: {(run.errors + run.output)[-300:]!r}")
    if lines:
        promise(re.search(case.says, run.errors), f"stderr does not say {case.says!r}: {run.errors[-300:]!r}")
    if status == 0:
        promise(case.shows in run.output, f"stdout does not show {case.shows!r}: {run.output[-300:]!r}")
    if alive := _alive(run):
        promise(False, f"{len(alive)} processes outlive it")
    other = changed(before, inventory(place.path, place.top))
    promise(not other, f"changed outside of the run: {other[:5]}")
    if status in case.ends:
        _kept(case.ends[status], place, inside if existed else None, promise)
    if case.then and not promise.broken:
        _goes_on(place, promise)
    return tuple(promise.broken)


def _alive(run: Run) -> list[int]:
    """Returns and kills processes that outlive the command by some time."""
    limit = time.monotonic() + 3.0
    while (found := survivors(run.process.pid)) and time.monotonic() < limit:
        time.sleep(0.05)
    for process in found:
        os.kill(process, signal.SIGKILL)
    return found


_PICTURES = ("evaluation", "adaptation", "renders")


def _kept(keeps: Keeps, place: Place, before: dict[str, object] | None, promise: Promises) -> None:
    """Checks the condition on the files."""
    folder, after = place.run, inventory(place.run)
    if keeps == "unchanged":
        there = folder.exists() or folder.is_symlink()
        different = changed(before or {}, after) if before is not None else ["the folder itself"] if there else []
        promise(not different, f"changed: {different[:5]}")
    elif keeps == "pictures":
        different = [name for name in changed(before or {}, after) if not name.startswith(_PICTURES)]
        promise(not different, f"changed: {different[:5]}")
    elif keeps == "unborn":
        from metarl_jax.runs.storage.folder import unborn

        promise(not folder.exists() or unborn(folder), f"a folder that cannot be started in: {sorted(after)[:5]}")
    else:
        _trained(keeps, place, promise)


def _trained(keeps: Keeps, place: Place, promise: Promises) -> None:
    """Checks that checkpoints and rows equal the reference's."""
    lab, folder = place.lab, place.run
    members = [path for path in sorted(folder.iterdir()) if (path / "config.json").is_file()]
    for run in members if keeps == "sweep" else [folder]:
        try:
            iteration = lab.kept(run, promise)
        except Exception as error:  # any error: the checkpoint cannot be read
            promise(False, f"no checkpoint can be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        if keeps != "sound":
            promise((run / "evaluation.json").is_file(), "it was not evaluated")
            promise(iteration == _iterations(run), f"it ended at iteration {iteration}")
            promise((run / "metrics.csv").read_bytes() == lab.rows_before(iteration), "metrics.csv is another")
    if keeps == "sweep":
        promise(members, "there is no member")


def _iterations(folder: Path) -> int:
    from metarl_jax.runs.config.file import read_config

    return read_config(folder).iterations


def _goes_on(place: Place, promise: Promises) -> None:
    promise(all(place.lab.go_on(place.run, promise)), "resumed, it does not end as the undisturbed run")


@functools.cache
def everybodys_python() -> bool:
    """Whether other users may run this Python and import the library."""
    stranger = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable]
    done = subprocess.run([*stranger, "-c", "import metarl_jax"], cwd=ROOT, capture_output=True, check=False)
    return done.returncode == 0


def tried(case: Case, lab: "Lab") -> tuple[str, ...] | None:
    """Runs a case in a new place; returns the broken promises, or None if it cannot run here."""
    if (case.root or case.disk is not None) and os.geteuid():
        return None
    if "setpriv" in case.shell and not everybodys_python():
        return None
    path = lab.folder("place")
    if case.disk is None:
        path.mkdir()
        broken = judge(case, prepared(case, path, lab), lab.environment, lab.folder("log"))
    else:
        with small_disk(path, 65536) as remount:
            place = prepared(case, path, lab)
            blocks = os.statvfs(path)
            used = (blocks.f_blocks - blocks.f_bfree) * blocks.f_frsize // 1024
            if case.inodes:
                remount(f"nr_inodes={blocks.f_files - blocks.f_ffree}")
            else:
                remount(f"size={used + case.disk}k")
            broken = judge(case, place, lab.environment, lab.folder("log"))
            remount("size=64m")
    shutil.rmtree(path, ignore_errors=True)
    return broken


def prepared(case: Case, path: Path, lab: "Lab") -> Place:
    """Creates the place of a case."""
    place = Place(path, lab, case.folder)
    (path / "outside").mkdir()
    (path / "outside" / "mine").write_text("mine\n")
    if case.start is not None:
        lab.stopped_at(case.start, place.run, checkpoints=min(2, 1 + case.start // EVERY))
        (place.run / "lock").touch()
        if case.start == ITERATIONS:
            for name in ("evaluation.json", "adaptation.png", "learning_curve.png", "timing.csv"):
                shutil.copyfile(lab.reference / name, place.run / name)
    for prepare in case.prepare:
        prepare(place)
    return place
