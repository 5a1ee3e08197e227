"""Hostile cases with owners, quotas and clocks."""

import os
from typing import Any

from benchmarks.hostile_files import RESUME
from benchmarks.hostile_tools import (
    DONE,
    DREW,
    EITHER,
    EVERY,
    ITERATIONS,
    REFUSED,
    SETTINGS,
    Case,
    Keeps,
    Place,
    Prepare,
)

_NEW = ("--folder=run", *SETTINGS, "--iterations", str(2 * EVERY))
_STARTS: dict[str, Any] = {"command": "train", "words": _NEW, "start": None}

_NOBODY = 'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'


def _owned(owner: int = 65534) -> Prepare:
    """Gives the place to the user nobody, or to another user, instead of root."""

    def prepare(place: Place) -> None:
        for path in [place.path, *place.path.rglob("*")]:
            os.chown(path, owner, owner, follow_symlinks=False)

    return prepare


def mode(bits: int, name: str = ".") -> Prepare:
    """Changes the permissions of a part of the run."""
    return lambda place: (place.run / name).chmod(bits)


# owners, command, required end, and error line; all run as the user nobody
_OWNERS: dict[str, tuple[tuple[Prepare, ...], str, dict[int, Keeps], str]] = {
    "root's run": ((), RESUME, REFUSED, "[Pp]ermission denied"),
    "root's run ": ((), "evaluate run", REFUSED, "[Pp]ermission denied"),
    "root's run  ": ((), "render run", REFUSED, "[Pp]ermission denied"),
    "its own run": ((_owned(),), RESUME, DONE, ""),
    "its own run ": ((_owned(),), "evaluate run", DREW, ""),
    "a configuration that it cannot read": ((_owned(), mode(0, "config.json")), RESUME, REFUSED, "[Pp]ermission"),
    "a configuration that it cannot read ": ((_owned(), mode(0, "config.json")), "evaluate run", REFUSED, "[Pp]erm"),
    "checkpoints that it cannot enter": ((_owned(), mode(0, "checkpoints")), RESUME, REFUSED, "[Pp]ermission"),
    "checkpoints that it cannot enter ": ((_owned(), mode(0, "checkpoints")), "evaluate run", REFUSED, "[Pp]ermission"),
    "a newest checkpoint that it cannot enter": (
        (_owned(), mode(0, f"checkpoints/{ITERATIONS - EVERY}")),
        RESUME,
        REFUSED,
        "[Pp]ermission",
    ),
    "a record that it cannot read": (
        (_owned(), mode(0, f"checkpoints/{ITERATIONS - EVERY}/record/metadata")),
        RESUME,
        REFUSED,
        "[Pp]ermission",
    ),
    "rows that it cannot read": ((_owned(), mode(0, "metrics.csv")), RESUME, REFUSED, "[Pp]ermission"),
    "rows that it cannot write": ((_owned(), mode(0o444, "metrics.csv")), RESUME, EITHER, "[Pp]ermission"),
    "a folder that it cannot write": ((_owned(), mode(0o555)), RESUME, REFUSED, "[Pp]ermission"),
    "a folder that it cannot write ": ((_owned(), mode(0o555)), "evaluate run", REFUSED, "[Pp]ermission"),
    "a folder that it cannot list": ((_owned(), mode(0o333)), RESUME, EITHER, "[Pp]ermission"),
    "a folder that it cannot enter": ((_owned(), mode(0o666)), "evaluate run", REFUSED, "^error: .*run"),
}


# name: options of the case, for users other than root
_USERS: dict[str, dict[str, Any]] = {
    "a place for a new run that it cannot write": {
        "shell": _NOBODY, "ends": REFUSED, "says": "[Pp]ermission denied", **_STARTS},
    "a place for a sweep that it cannot write": {
        "shell": _NOBODY, "start": None, "command": "sweep --folder run --grid patience=5,6 --",
        "words": tuple(SETTINGS), "ends": REFUSED, "says": "[Pp]ermission denied"},
    "a user whom the system does not know, and no home": {
        "command": RESUME, "prepare": (_owned(owner=4242),), "ends": DONE,
        "shell": 'exec setpriv --reuid 4242 --regid 4242 --clear-groups "$@"',
        "environment": {"HOME": None, "USER": None, "LOGNAME": None, "JAX_COMPILATION_CACHE_DIR": None}},
    "a mask that leaves nothing to itself": {
        "shell": f"umask 0777; {_NOBODY}", "prepare": (_owned(),), "ends": {1: "unborn", 2: "unborn"},
        "says": "[Pp]ermission denied", **_STARTS},
}  # fmt: skip
# name: shell and environment of a user to whom nothing else is denied
_PLACES: dict[str, tuple[str, dict[str, str | None]]] = {
    "no home": (_NOBODY, {"HOME": None, "JAX_COMPILATION_CACHE_DIR": None}),
    "a home that is not there": (_NOBODY, {"HOME": "/nowhere", "JAX_COMPILATION_CACHE_DIR": None}),
    "root's home": (_NOBODY, {"HOME": "/root", "JAX_COMPILATION_CACHE_DIR": None}),
    "no folder for temporary files": (_NOBODY, {"TMPDIR": "/nowhere"}),
    "a cache that it cannot write": (_NOBODY, {"JAX_COMPILATION_CACHE_DIR": "/sys/cache"}),
    "a mask that leaves nothing to others": (f"umask 077; {_NOBODY}", {}),
    "a mask that leaves all to others": (f"umask 0; {_NOBODY}", {}),
}


def _owners() -> list[Case]:
    def case(name: str, **given: Any) -> Case:
        return Case(kind="owners", name=name, **given)

    return [
        *(
            case(f"{name.strip()}, {command.split()[0]}", command=command, prepare=prepare, ends=ends, says=says,
                 shell=_NOBODY, root=True)
            for name, (prepare, command, ends, says) in _OWNERS.items()
        ),
        *(case(name, root=True, **given) for name, given in _USERS.items()),
        *(
            case(name, command=RESUME, prepare=(_owned(),), shell=shell, environment=environment, ends=DONE, root=True)
            for name, (shell, environment) in _PLACES.items()
        ),
        case("a working folder that is gone", command="evaluate run", start=ITERATIONS, ends=DREW,
             shell='run=$PWD/run; mkdir gone; cd gone; rmdir ../gone; exec "$1" "$2" "$run"'),
    ]  # fmt: skip


_STOPS: dict[int, Keeps] = {1: "sound", 2: "sound"}
_UNBORN: dict[int, Keeps] = {1: "unborn", 2: "unborn"}
_NO_FILE: dict[int, Keeps] = {1: "pictures", 2: "pictures"}
_NOT_DRAWN: dict[int, Keeps] = {1: "unchanged", 2: "unchanged"}
_LARGE, _SPACE, _OPEN = (
    "[Ff]ile too large|cannot write",
    "No space left|no space left|cannot write",
    "[Tt]oo many open|cannot",
)


def _quotas() -> list[Case]:
    resumes: dict[str, Any] = {"command": RESUME}
    evaluates: dict[str, Any] = {"command": "evaluate run", "start": ITERATIONS}
    renders: dict[str, Any] = {"command": "render run", "start": ITERATIONS}
    files = [
        *(("start", size, _STARTS, _UNBORN) for size in (0, 1, 4)),
        *(("resume", size, resumes, _STOPS) for size in (0, 1, 4)),
        *(("evaluate", size, evaluates, _NOT_DRAWN) for size in (0, 1)),
        ("render", 0, renders, _NO_FILE),
    ]
    disks = [
        *(("start", room, _STARTS, _UNBORN) for room in (0, 8, 40)),
        *(("resume", room, resumes, _STOPS) for room in (0, 8, 40)),
        ("evaluate", 0, evaluates, _NOT_DRAWN),
        ("render", 0, renders, _NO_FILE),
    ]
    return [
        *(
            Case(kind="quotas", name=f"files of at most {size} KiB, {what}", ends=ends, says=_LARGE,
                 shell=f'ulimit -f {size}; exec "$@"', **which)
            for what, size, which, ends in files
        ),
        *(
            Case(kind="quotas", name=f"a disk with {room} KiB left, {what}", ends=ends, says=_SPACE, disk=room, **which)
            for what, room, which, ends in disks
        ),
        *(
            Case(kind="quotas", name=f"a disk without inodes, {what}", ends=ends, says=_SPACE, disk=0, inodes=True,
                 **which)
            for what, which, ends in (
                ("start", _STARTS, _UNBORN), ("resume", resumes, _STOPS), ("evaluate", evaluates, _NOT_DRAWN)
            )
        ),
        Case(kind="quotas", name="four seconds of the processor, resume", start=EVERY, command=RESUME,
             shell='ulimit -St 4; exec "$@"', words=("--override", "--iterations", "100000"),
             ends={-24: "sound", 152: "sound"}),
        Case(kind="quotas", name="30 open files, resume", ends={0: "whole", 1: "sound", 2: "unchanged"}, says=_OPEN,
             shell='ulimit -n 30; exec "$@"', **resumes),
    ]  # fmt: skip


def _dated(seconds: float) -> Prepare:
    """Sets the date of all files of the place."""

    def prepare(place: Place) -> None:
        for path in [place.path, *place.path.rglob("*")]:
            os.utime(path, (seconds, seconds))

    return prepare


_CLOCK = (
    "import sys, time; sys.path.insert(0, {experiments!r}); real = time.time; "
    "time.time = lambda: {formula}; import train; "
    "from metarl_jax.runs.console import cli; sys.exit(cli.run(train.main))"
)


def _clocks() -> list[Case]:
    from benchmarks.fault_runs import TRAIN

    experiments = str(TRAIN.parent)
    return [
        *(
            Case(kind="clocks", name=f"files of the year {year}, train", command=RESUME, ends=DONE,
                 prepare=(_dated(seconds),))
            for year, seconds in {"1901": -2.1e9, "1970": 0.0, "2100": 4.1e9, "2400": 1.36e10}.items()
        ),
        Case(kind="clocks", name="files of the year 2100, evaluate", command="evaluate run", start=ITERATIONS,
             prepare=(_dated(4.1e9),), ends=DREW),
        *(
            Case(kind="clocks", name=f"TZ is {zone[:20]!r}", command=RESUME, environment={"TZ": zone}, ends=DONE)
            for zone in ("XXX+99:99:99", ":/etc/passwd", "Nowhere/Land", "x" * 1000)
        ),
        *(
            Case(kind="clocks", name=f"the clock {what}", command="python -c",
                 words=(_CLOCK.format(experiments=experiments, formula=formula), "--resume", "--folder=run"), ends=DONE)
            for what, formula in {
                "stands still": "1e9", "runs backwards": "2e9 - real()", "is at 0": "0.0", "is before 1970": "-1e6",
            }.items()
        ),
    ]  # fmt: skip


CASES: tuple[Case, ...] = (*_owners(), *_quotas(), *_clocks())
