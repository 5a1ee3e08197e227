"""Hostile cases with links and special files in place of a run's files."""

import functools
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from benchmarks.hostile_tools import (
    DONE,
    DREW,
    DREW_OR_REFUSED,
    EITHER,
    ITERATIONS,
    REFUSED,
    SETTINGS,
    Case,
    Keeps,
    Place,
    Prepare,
)


def _free(path: Path) -> Path:
    """Removes the file at a path and returns the path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


def link(name: str, target: str = "outside/mine") -> Prepare:
    """Replaces a file of the run by a link to another user's file."""

    def prepare(place: Place) -> None:
        _free(place.run / name).symlink_to(place.path / target)

    return prepare


def moved(name: str) -> Prepare:
    """Moves a file or folder of the run outside, and leaves a link to it."""

    def prepare(place: Place) -> None:
        shutil.move(place.run / name, place.path / "outside" / name)
        (place.run / name).symlink_to(place.path / "outside" / name)

    return prepare


def fifo(path: Path) -> None:
    """Creates a pipe without a writer."""
    os.mkfifo(_free(path))


def bound(path: Path) -> None:
    """Creates a socket."""
    with socket.socket(socket.AF_UNIX) as one:
        here = os.open(path.parent, os.O_DIRECTORY)  # a socket's path has at most 107 bytes
        try:
            one.bind(f"/proc/self/fd/{here}/{_free(path).name}")
        finally:
            os.close(here)


def device(path: Path, major: int = 1, minor: int = 5) -> None:
    """Creates a device, by default /dev/zero, which is infinite."""
    os.mknod(_free(path), 0o020666, os.makedev(major, minor))


def folder(path: Path) -> None:
    """Creates a folder that is not empty."""
    _free(path).mkdir()
    (path / "mine").write_text("mine\n")


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": fifo,
    "a socket": bound,
    "/dev/zero": device,
    "/dev/full": functools.partial(device, minor=7),
    "a folder": folder,
    "a link to /dev/zero": lambda path: _free(path).symlink_to("/dev/zero"),
    "a link to itself": lambda path: _free(path).symlink_to(path.name),
    "a link to nothing": lambda path: _free(path).symlink_to("nothing"),
}


def at(name: str, what: str) -> Prepare:
    """Replaces a file of the run by a special file."""
    return lambda place: SPECIAL[what](place.run / name)


RESUME = "train --resume --folder run"

# file, its replacement, command, required end
_SPECIAL: tuple[tuple[str, str, str, dict[int, Keeps]], ...] = (
    ("config.json", "a pipe", RESUME, REFUSED),
    ("config.json", "a socket", "evaluate run", REFUSED),
    ("config.json", "/dev/zero", "evaluate run", REFUSED),
    ("config.json", "a folder", "render run", REFUSED),
    ("config.json", "a link to /dev/zero", RESUME, REFUSED),
    ("config.json", "a link to itself", "evaluate run", REFUSED),
    ("metrics.csv", "a pipe", RESUME, REFUSED),
    ("metrics.csv", "/dev/zero", RESUME, REFUSED),
    ("metrics.csv", "a folder", RESUME, REFUSED),
    ("metrics.csv", "a link to /dev/zero", RESUME, REFUSED),
    ("metrics.csv", "a link to nothing", RESUME, REFUSED),
    ("timing.csv", "a pipe", RESUME, REFUSED),
    ("timing.csv", "a socket", RESUME, REFUSED),
    ("timing.csv", "/dev/full", RESUME, REFUSED),
    ("timing.csv", "a folder", RESUME, REFUSED),
    ("lock", "a pipe", RESUME, REFUSED),
    ("lock", "a folder", RESUME, REFUSED),
    ("lock", "/dev/zero", RESUME, REFUSED),
    ("checkpoints", "a pipe", "evaluate run", REFUSED),
    ("checkpoints", "a link to itself", RESUME, REFUSED),
    ("tensorboard", "a pipe", RESUME, REFUSED),
    ("metrics.csv.tmp", "a pipe", RESUME, EITHER),
    ("metrics.csv.tmp", "a folder", RESUME, EITHER),
    ("config.json.tmp", "a pipe", RESUME, EITHER),
    ("evaluation.json", "a folder", "evaluate run", DREW_OR_REFUSED),
    ("evaluation.json", "a pipe", "evaluate run", DREW_OR_REFUSED),
    ("evaluation.json.tmp", "a pipe", "evaluate run", DREW_OR_REFUSED),
    ("adaptation.png", "a pipe", "evaluate run", DREW_OR_REFUSED),
    ("adaptation.png", "/dev/full", "evaluate run", DREW_OR_REFUSED),
    ("renders", "a pipe", "render run", DREW_OR_REFUSED),
)

# linked path, command, required end
_LINKS: tuple[tuple[Prepare, str, str, dict[int, Keeps]], ...] = (
    (link("metrics.csv"), "metrics.csv to another file", RESUME, REFUSED),
    (moved("metrics.csv"), "metrics.csv to itself elsewhere", RESUME, REFUSED),
    (link("metrics.csv.tmp"), "metrics.csv.tmp to another file", RESUME, EITHER),
    (link("config.json.tmp"), "config.json.tmp to another file", RESUME, EITHER),
    (link("timing.csv"), "timing.csv to another file", RESUME, REFUSED),
    (link("lock"), "lock to another file", RESUME, EITHER),
    (link("learning_curve.png"), "learning_curve.png to another file", RESUME, EITHER),
    (link("tensorboard", "outside"), "tensorboard to another folder", RESUME, REFUSED),
    (link("damaged", "outside"), "damaged to another folder", RESUME, EITHER),
    (link("evaluation.json"), "evaluation.json to another file", "evaluate run", DREW_OR_REFUSED),
    (link("evaluation.json.tmp"), "evaluation.json.tmp to another file", "evaluate run", DREW_OR_REFUSED),
    (link("adaptation.png"), "adaptation.png to another file", "evaluate run", DREW_OR_REFUSED),
    (link("renders", "outside"), "renders to another folder", "render run", DREW_OR_REFUSED),
    (moved("config.json"), "config.json to itself elsewhere", "evaluate run", DREW_OR_REFUSED),
    (moved("checkpoints"), "checkpoints to themselves elsewhere", "evaluate run", DREW_OR_REFUSED),
)


def _elsewhere(place: Place) -> None:
    """Moves the run elsewhere; `alias` is a link to it."""
    (place.path / "alias").symlink_to("run")


def _stands(what: str) -> Prepare:
    return lambda place: SPECIAL[what](place.path / "new")


CASES: tuple[Case, ...] = (
    *(
        Case(
            kind="links",
            name=f"{what}, {command.split()[0]}",
            command=command,
            start=ITERATIONS - 4 if command == RESUME else ITERATIONS,
            prepare=(prepare,),
            ends=ends,
            says="^error: ",
        )
        for prepare, what, command, ends in _LINKS
    ),
    *(
        Case(
            kind="special files",
            name=f"{name} is {what}, {command.split()[0]}",
            command=command,
            start=ITERATIONS - 4 if command == RESUME else ITERATIONS,
            prepare=(at(name, what),),
            ends=ends,
            says="^error: ",
            root="/dev" in what and "link" not in what,
        )
        for name, what, command, ends in _SPECIAL
    ),
    *(
        Case(
            kind="special files",
            name=f"the folder of a new run is {what}",
            command="train --folder new",
            words=tuple(SETTINGS),
            start=None,
            prepare=(_stands(what),),
            ends=REFUSED,
            says="^error: .*new",
            root="/dev" in what and "link" not in what,
        )
        for what in SPECIAL
    ),
    Case(
        kind="links",
        name="the run by a link to its folder, resumed",
        command="train --resume --folder alias",
        prepare=(_elsewhere,),
        ends=DONE,
    ),
    Case(
        kind="links",
        name="the run by a link to its folder, evaluated",
        command="evaluate alias",
        start=ITERATIONS,
        prepare=(_elsewhere,),
        ends=DREW,
    ),
)
