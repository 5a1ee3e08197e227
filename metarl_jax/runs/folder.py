"""A run folder and its lock: one writer at a time."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from metarl_jax.runs import json_text

LOCK = "lock"
_BEFORE_THE_FIRST_ITERATION = {
    LOCK,
    "checkpoints",
    "metrics.csv",
    "timing.csv",
    "tensorboard",
    "wandb",
    "config.json.tmp",
}


_LONGEST = 3500
"""Bytes of a run folder's path: the system allows 4096, and a checkpoint needs some hundred below it."""
_SCHEMES = ("gs", "s3", "az", "hf")


def check_path(folder: Path) -> None:
    """Whether checkpoints can be in the folder at all, wherever a link has put it; nothing is opened.

    Brackets, stars and spaces are letters like others. But some paths orbax and tensorstore take for others.

    Raises:
        ValueError: they cannot.
    """
    path = folder.resolve()
    text, encoded = str(path), os.fsencode(path)
    reasons = {
        "holds a backslash, which tensorstore reads as a slash": "\\" in text,
        "holds a control character such as a line break, which no message could tell in one line": bool(
            re.search(r"[\x00-\x1f\x7f-\x9f]", text)
        ),
        "is not text in UTF-8, which tensorstore and config.json need": text.encode(errors="replace") != encoded,
        "holds 'gs:/', which orbax reads as the address of a bucket": "gs:/" in f"{text}/",
        f"begins with /{path.parts[1:2][0] if path.parts[1:] else ''}, which orbax reads as the address of a bucket": (
            path.parts[1:2] != () and path.parts[1] in _SCHEMES
        ),
        f"has {len(encoded)} bytes, and more than {_LONGEST} leave too little for what is below it": (
            len(encoded) > _LONGEST
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"{folder} cannot hold checkpoints: its path {reason}; choose or give it another name")


def resumable(folder: Path) -> bool:
    """Whether there is a run in the folder that can be resumed: its configuration is written last."""
    return (folder / "config.json").is_file()


def unborn(folder: Path) -> bool:
    """Whether the folder is empty, or holds no more than a run that was killed before it could be resumed."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    # A run that has lost nothing but its config.json is worth restoring: it has later checkpoints.
    later = [path.name for path in folder.glob("checkpoints/*") if path.name.partition(".")[0] != "0"]
    return LOCK in names and names <= _BEFORE_THE_FIRST_ITERATION and not later


def clear(folder: Path) -> None:
    """Removes what `unborn` allows, but for the lock, which the caller holds.

    Raises:
        ValueError: there is more in the folder by now.
    """
    if not unborn(folder):
        raise ValueError(f"the run folder {folder} is another run's by now; choose another by --folder")
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds the folder's lock. The kernel takes it back when the process ends, however it ends.

    The file ``lock`` names the owner and stays behind, empty, when the lock is given back.

    Raises:
        ValueError: another process holds it.
        OSError: the folder cannot be written.
    """
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"the folder {folder} is in use by {_owner(file)}; wait for it, stop it, or choose another "
                "folder by --folder"
            ) from error
        file.truncate(0)
        me = {"process": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
        file.write(json.dumps(me) + "\n")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a disk that is full or gone: what matters is that the lock is released
                file.truncate(0)


def _owner(file) -> str:
    file.seek(0)
    try:
        owner = json_text.loads(file.read())
        return f"process {owner['process']} on {owner['host']} (since {owner['since']})"
    except (ValueError, KeyError, TypeError):  # it was just taken, and its owner has not signed yet
        return "another process"
