"""Hostile cases with signals in all phases of a script, and with killed and concurrent sweeps."""

import json
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fault_runs import Run, rows, unfinished
from benchmarks.hostile_configurations import DEEP
from benchmarks.hostile_files import RESUME, device, fifo, folder
from benchmarks.hostile_tools import (
    EVERY,
    ITERATIONS,
    REFUSED,
    SETTINGS,
    Case,
    Keeps,
    Place,
    Prepare,
)
from metarl_jax.runs.sweeps.plans import SCHEMA

Moment = Callable[[Run, Place], bool]


def loaded(library: str) -> Moment:
    """During the imports: when a shared library with this name is loaded."""

    def there(run: Run, place: Place) -> bool:
        def mapped() -> bool:
            try:
                return library in Path(f"/proc/{run.process.pid}/maps").read_text(encoding="utf-8")
            except OSError:
                return False

        return run.until(mapped)

    return there


def compiling(run: Run, place: Place) -> bool:
    """After the setup, before the first iteration."""
    came = run.until(lambda: "results go to" in run.output)
    time.sleep(0.2)
    return came


def training(run: Run, place: Place) -> bool:
    """After some more iterations."""
    before = rows(place.run)
    return run.until(lambda: rows(place.run) > before + 2 * EVERY)


def writing(run: Run, place: Place) -> bool:
    """During the write of a checkpoint."""
    return run.until(lambda: rows(place.run) > 3 * EVERY and unfinished(place.run))


def evaluating(run: Run, place: Place) -> bool:
    """After the training, before the evaluation."""
    return run.until(lambda: "trained for" in run.output)


def drawing(run: Run, place: Place) -> bool:
    """Shortly before the end of render.py."""
    came = loaded("_path.cpython")(run, place)  # of Matplotlib
    time.sleep(0.5)
    return came


def sent(moment: Moment, *signals: signal.Signals) -> Callable[[Run, Place], bool]:
    """Sends signals in immediate succession at a time."""

    def disturb(run: Run, place: Place) -> bool:
        came = moment(run, place)
        for signum in signals:
            run.send(signum)
        return came

    return disturb


def _ends(signum: signal.Signals, keeps: Keeps) -> dict[int, Keeps]:
    """Allowed statuses: killed by the signal or, better, the corresponding exit status."""
    return {128 + signum: keeps} if signum == signal.SIGINT else {128 + signum: keeps, -signum: keeps}


_INT, _TERM, _HUP, _KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
_LONG = ("--override", "--iterations", "100000")
# phase → command, time, iteration of the previous stop, requirement, further arguments, variables
_PHASES: dict[str, tuple[str, Moment, int | None, Keeps, tuple[str, ...], dict[str, str | None]]] = {
    "imports, train": (RESUME, loaded("numpy"), ITERATIONS - EVERY, "unchanged", (), {}),
    "imports, evaluate": ("evaluate run", loaded("jaxlib"), ITERATIONS, "unchanged", (), {}),
    "set-up, train": (RESUME, loaded("tensorstore"), ITERATIONS - EVERY, "sound", (), {}),
    "set-up of a new run": ("train --folder run", loaded("tensorstore"), None, "unborn", tuple(SETTINGS), {}),
    "compilation": (RESUME, compiling, EVERY, "sound", (), {"JAX_ENABLE_COMPILATION_CACHE": "false"}),
    "training": (RESUME, training, EVERY, "sound", _LONG, {}),
    "a checkpoint": (RESUME, writing, EVERY, "sound", _LONG, {}),
    "evaluation, train": (RESUME, evaluating, ITERATIONS - EVERY, "sound", (), {}),
    "evaluation, evaluate": (
        "evaluate run --tasks 40 --steps 30",
        loaded("tensorstore"),
        ITERATIONS,
        "pictures",
        (),
        {},
    ),
    "rendering": ("render run", drawing, ITERATIONS, "pictures", (), {}),
}


def _signals() -> list[Case]:
    return [
        Case(
            kind="signals",
            name=f"{signum.name}: {phase}",
            command=command,
            words=words,
            start=begun,
            disturb=sent(moment, signum),
            ends=_ends(signum, keeps),
            says="interrupted|stopped by",
            environment=environment,
        )
        for phase, (command, moment, begun, keeps, words, environment) in _PHASES.items()
        for signum in (_INT, _TERM, _HUP)
    ] + [
        Case(
            kind="signals",
            name=f"{' and '.join(signum.name for signum in signals)}: {phase}",
            command=_PHASES[phase][0],
            words=_PHASES[phase][4],
            start=_PHASES[phase][2],
            disturb=sent(_PHASES[phase][1], *signals),
            ends={ends: _PHASES[phase][3] for signum in signals for ends in (128 + signum, -signum)},
            says="interrupted|stopped by",
            environment=_PHASES[phase][5],
        )
        for phase, signals in (
            ("training", (_INT, _INT)),
            ("training", (_TERM, _TERM, _TERM)),
            ("training", (_HUP, _TERM)),
            ("compilation", (_INT, _INT)),
            ("a checkpoint", (_TERM, _KILL)),
            ("rendering", (_INT, _INT)),
        )
    ]


def _resumed() -> list[Case]:
    """Stopped and then resumed to the end."""
    return [
        Case(
            kind="signals",
            name=f"{signum.name}: {phase}, and resumed",
            command=RESUME,
            start=EVERY if phase != "evaluation" else ITERATIONS - EVERY,
            disturb=sent(moment, signum),
            ends=_ends(signum, "sound"),
            says="stopped by",
            then=True,
        )
        for phase, moment, signum in (
            ("training", training, _HUP),
            ("a checkpoint", writing, _INT),
            ("a checkpoint", writing, _KILL),
            ("evaluation", evaluating, _TERM),
            ("evaluation", evaluating, _KILL),
        )
    ]


def _paused(run: Run, place: Place) -> bool:
    """Suspended as by Ctrl-Z, and continued."""
    came = training(run, place)
    run.send(signal.SIGSTOP)
    time.sleep(0.5)
    run.send(signal.SIGCONT)
    return came


_SWEEP = "sweep --folder run --grid patience=5,6 --"
_SHORT = (*SETTINGS, "--iterations", str(2 * EVERY))
_MEMBER = "patience=5"


def plan(members: object) -> str:
    """The content of a sweep's plan."""
    return json.dumps({"schema": SCHEMA, "base": list(_SHORT), "members": members, "seeds": 1})


def swept(*changes: Prepare) -> tuple[Prepare, ...]:
    """Creates a sweep without members, with changes."""

    def prepare(place: Place) -> None:
        place.run.mkdir()
        members = {f"patience={number}": {"patience": number} for number in "56"}
        (place.run / "sweep.json").write_text(plan(members))

    return (prepare, *changes)


def inside(name: str, content: str | bytes) -> Prepare:
    """Writes a file to the sweep's folder."""

    def prepare(place: Place) -> None:
        path = place.run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return prepare


def special(name: str, make: Callable[[Path], object]) -> Prepare:
    """Creates a special file in the sweep's folder."""
    return lambda place: make(place.run / name)


class _Touch:
    """A pickle that runs code when loaded."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


# fault of the sweep's folder → required end and error line; rejected before any member starts
_BAD: dict[str, tuple[tuple[Prepare, ...], str]] = {
    "sweep.json is a list": (swept(inside("sweep.json", "[]")), "sweep.json is damaged"),
    "sweep.json is nested deep": (swept(inside("sweep.json", DEEP)), "sweep.json is damaged"),
    "sweep.json has 10,000 digits": (swept(inside("sweep.json", f'{{"schema": {"9" * 10000}}}')), "sweep.json"),
    "sweep.json is no UTF-8": (swept(inside("sweep.json", b"\xff\xfe")), "sweep.json is damaged"),
    "sweep.json is of schema 9": (
        swept(inside("sweep.json", '{"schema": 9, "base": [], "members": {}, "seeds": 1}')), "this version reads schema"
    ),
    "sweep.json has a word for members": (
        swept(inside("sweep.json", plan("x"))), "sweep.json is damaged"
    ),
    "sweep.json has numbers for members": (
        swept(inside("sweep.json", plan({"a": 3}))), "another sweep"
    ),
    "sweep.json is a pipe": (swept(lambda place: (place.run / "sweep.json").unlink(),
                                   special("sweep.json", fifo)), "sweep"),
    "sweep.json is a folder": (swept(special("sweep.json", folder)), "sweep"),
    "the lock is a pipe": (swept(special("lock", fifo)), "lock"),
    "logs is a file": (swept(inside("logs", "mine")), "logs"),
    "logs is a pipe": (swept(special("logs", fifo)), "logs"),
    "submitit is a file": (swept(inside("submitit", "mine")), "submitit"),
    "the folder is a file": ((lambda place: place.run.write_text("mine"),), "run"),
    "the folder is a pipe": ((lambda place: fifo(place.run),), "run"),
    "the folder is another's": ((lambda place: folder(place.run),), "no sweep"),
}  # fmt: skip


_TRAINS = f"until [ -s run/{_MEMBER}/metrics.csv ]; do sleep 0.05; done"
_AGAIN = '"$@" >/dev/null 2>&1 & p=$!; {}; kill -{} $p; {{ wait $p; }} 2>/dev/null; sleep {}; exec "$@"'
"""Ends a sweep while its first member trains; the same command continues it."""


def _sweeps() -> list[Case]:
    def case(name: str, ends: dict[int, Keeps], **more) -> Case:
        given: dict[str, Any] = {"command": _SWEEP, "words": _SHORT, "start": None} | more
        return Case(kind="sweeps", name=name, ends=ends, **given)

    return [
        *(case(name, REFUSED, prepare=prepare, says=says) for name, (prepare, says) in _BAD.items()),
        case("in a folder with brackets", {0: "sweep", 2: "unchanged"},
             command="sweep --folder s[0]w --grid patience=5 --",
             folder="s[0]w", says="^error: "),
        case("of a name that is markup", {0: "sweep", 2: "unchanged"},
             command="sweep --folder x[/red]y --grid patience=5 --",
             folder="x[/red]y", says="^error: ", shows="x[/red]y"),
        case("three members at once", {0: "sweep"}, command="sweep --folder run --jobs 3 --grid patience=5,6,7 --"),
        case("a pickle that nobody asked for in submitit", {0: "sweep"},
             prepare=swept(inside("submitit/1_submitted.pkl", pickle.dumps(_Touch())),
                           inside("submitit/1_0_result.pkl", pickle.dumps(_Touch())))),
        case("a member's place is a file", {1: "sweep", 2: "unchanged"}, prepare=swept(inside(_MEMBER, "mine")),
             says=f"1 of 2 members failed|{_MEMBER}"),
        case("a member's evaluation is nested deep", {0: "sweep", 1: "sweep"},
             prepare=swept(inside(f"{_MEMBER}/evaluation.json", DEEP)), says="failed"),
        case("a member's evaluation has words for numbers", {0: "sweep", 1: "sweep"},
             prepare=swept(inside(f"{_MEMBER}/evaluation.json", '{"iteration": 8, "rows": {"adapted": "x"}}')),
             says="failed"),
        case("a member's evaluation is endless", {0: "sweep", 1: "sweep", 2: "unchanged"}, root=True, says="^error: ",
             prepare=swept(inside(f"{_MEMBER}/notes", ""), special(f"{_MEMBER}/evaluation.json", device))),
        case("results.csv is a link", {0: "sweep"},
             prepare=swept(lambda place: (place.run / "results.csv.tmp").symlink_to("../outside/mine"))),
        case("a second one beside the first", {2: "sweep"}, says="in use by",
             shell='"$@" & "$@"; a=$?; wait $!; exit $((a + $?))'),
        case("SIGTERM to one, and again", {0: "sweep"}, shell=_AGAIN.format(_TRAINS, "TERM", 0)),
        case("SIGHUP to one, and again", {0: "sweep"}, shell=_AGAIN.format(_TRAINS, "HUP", 2)),
        case("SIGKILL to one, and again", {0: "sweep"}, shell=_AGAIN.format(_TRAINS, "KILL", 4)),
        case("SIGINT: imports", {130: "unchanged", 1: "unchanged"}, disturb=sent(loaded("jaxlib"), _INT),
             says="interrupted|stopped"),
    ]  # fmt: skip


CASES: tuple[Case, ...] = (
    *_signals(),
    *_resumed(),
    Case(kind="signals", name="SIGSTOP and SIGCONT: training", command=RESUME, start=EVERY, disturb=_paused,
         ends={0: "whole"}),
    *_sweeps(),
)  # fmt: skip
