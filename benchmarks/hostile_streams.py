"""Hostile cases with terminals, output streams and locales."""

from typing import Any

from benchmarks.hostile_files import RESUME
from benchmarks.hostile_tools import DONE, DREW, ITERATIONS, REFUSED, Case, Keeps

_SAID: dict[int, Keeps] = {0: "whole", 1: "sound", 2: "sound"}
_DRAWN: dict[int, Keeps] = {0: "pictures", 1: "pictures", 2: "pictures"}
_HELP: dict[int, Keeps] = {0: "unchanged", 1: "unchanged", 2: "unchanged"}
_GONE = 'exec > >(exec true); sleep 0.3; exec "$@"'


def _terminals() -> list[Case]:
    def case(name: str, shell: str = 'exec "$@"', command: str = RESUME, ends: dict[int, Keeps] = DONE, **more) -> Case:
        return Case(kind="terminals", name=name, command=command, shell=shell, ends=ends, says="", **more)

    evaluates: dict[str, Any] = {"command": "evaluate run", "start": ITERATIONS, "ends": _DRAWN}
    draws: dict[str, Any] = {**evaluates, "ends": DREW}
    refused: dict[str, Any] = {"command": "train --resume --folder nothing", "ends": REFUSED}
    return [
        case("stdin is closed", 'exec "$@" <&-'),
        case("stdout is closed", 'exec "$@" >&-', ends=_SAID),
        case("stderr is closed", 'exec "$@" 2>&-'),
        case("stderr is closed, and there is an error", 'exec "$@" 2>&-', **refused),
        case("all three are closed", 'exec "$@" <&- >&- 2>&-', ends=_SAID),
        case("stdout is closed, evaluate", 'exec "$@" >&-', **evaluates),
        case("nobody reads stdout", _GONE, ends=_SAID),
        case("nobody reads stdout, evaluate", _GONE, **evaluates),
        case("nobody reads stdout, a help text", _GONE, "train --help", _HELP),
        case("stdout is full", 'exec "$@" >/dev/full', ends=_SAID),
        case("stdout is full, evaluate", 'exec "$@" >/dev/full', **evaluates),
        case("stdout is full, a help text", 'exec "$@" >/dev/full', "train --help", _HELP),
        case("stderr is full", 'exec "$@" 2>/dev/full'),
        case("stderr is full, and there is an error", 'exec "$@" 2>/dev/full', **refused),
        case("a terminal", terminal=(24, 80)),
        case("a terminal of one column", terminal=(24, 1)),
        case("a terminal of no size", terminal=(0, 0)),
        case("a terminal of 65,535 columns, evaluate", terminal=(24, 65535), **draws),
        case("a terminal that is dumb", terminal=(24, 80), environment={"TERM": "dumb"}),
        case("a terminal that nobody knows", terminal=(24, 80), environment={"TERM": "\x1b[31m"}),
        *(
            case(f"a terminal, and COLUMNS is {columns!r}", terminal=(24, 80), environment={"COLUMNS": columns},
                 **draws)
            for columns in ("1", "0", "-5", "100000", "wide")
        ),
        case("no terminal, and colours forced", environment={"FORCE_COLOR": "1", "TERM": None}),
    ]  # fmt: skip


def _locales() -> list[Case]:
    def case(environment: dict[str, str], command: str, ends: dict[int, Keeps], folder: str = "run", **more) -> Case:
        name = " ".join(f"{variable}={value}" for variable, value in environment.items())
        where = f" {folder!a}" if folder != "run" else ""
        words = (f"--folder={folder}",) if command == "train --resume" else ()
        return Case(
            kind="locales",
            name=f"{name}, {' '.join(command.split()[:2])}{where}",
            command=command,
            words=words,
            environment=environment,
            folder=folder,
            ends=ends,
            says="^error: ",
            **more,
        )

    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    resumed = (
        ({"LC_ALL": "C"}, "größe"),
        ({"LC_ALL": "POSIX"}, "größe"),
        (plain, "größe"),
        ({"LC_ALL": "tr_TR.UTF-8"}, "ılık-İ"),
        ({"LC_ALL": "nowhere"}, "größe"),
        ({"PYTHONIOENCODING": "ascii"}, "größe"),
        ({"PYTHONIOENCODING": "ascii"}, "run"),
        ({"PYTHONIOENCODING": "latin-1"}, "日本"),
        ({"PYTHONIOENCODING": "utf-16"}, "run"),
        ({"PYTHONIOENCODING": "utf-8:strict"}, "caf\udce9"),
    )
    evaluated = ({"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, plain)
    return [
        *(case(environment, "train --resume", DONE | REFUSED, folder) for environment, folder in resumed),
        *(case(environment, "evaluate run", _DRAWN, start=ITERATIONS) for environment in evaluated),
        case({"PYTHONIOENCODING": "ascii"}, "train --help", {0: "unchanged", 2: "unchanged"}, start=None),
        case({"PYTHONOPTIMIZE": "2"}, "train --resume", DONE),
        case({"PYTHONWARNINGS": "error::ResourceWarning"}, "evaluate run", DREW, start=ITERATIONS),
    ]


CASES: tuple[Case, ...] = (*_terminals(), *_locales())
