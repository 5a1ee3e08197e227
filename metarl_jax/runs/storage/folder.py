"""Run folders and their locks, which ensure a single writer."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from metarl_jax.runs.storage import files, json_text

LOCK, HELD = "lock", "lock.held"
"""The file that the kernel locks, and the lock file for file systems without kernel locks."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
FILES = (
    "config.json",
    LOCK,
    HELD,
    "metrics.csv",
    "timing.csv",
    "wandb-id",
    "learning_curve.png",
    "hyperparameters.png",
    "evaluation*.json",
    "adaptation*.png",
)
FOLDERS = ("checkpoints", "tensorboard", "wandb", "damaged", "renders*")
_BEFORE_THE_FIRST_ITERATION = {
    LOCK,
    HELD,
    "checkpoints",
    "metrics.csv",
    "timing.csv",
    "tensorboard",
    "wandb",
    "wandb-id",
    "wandb-id.tmp",
    "config.json.tmp",
}


_LONGEST = 3500
"""Maximum length of a run folder's path in bytes: the system allows 4096, and paths below it add some hundred."""
_SCHEMES = ("gs", "s3", "az", "hf")


def check_path(folder: Path) -> None:
    """Checks that a folder's path, with links resolved, can hold checkpoints, without opening anything.

    Brackets, stars and spaces are allowed, but orbax and tensorstore misinterpret some other characters.

    Raises:
        ValueError: the path cannot hold checkpoints.
    """
    path = Path(os.path.realpath(folder))  # unlike `resolve`, does not raise for circular links
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


def check_own(folder: Path) -> None:
    """Checks that the files of a run are regular files and folders in the run folder itself.

    Raises:
        OSError: an entry with a name of a run's files is a link, a pipe or similar.
    """
    if not folder.is_dir():  # callers that need the folder report this
        return
    files.own(folder, FILES, FOLDERS)
    for name in ("checkpoints", "tensorboard"):
        files.plain(folder / name)


def resumable(folder: Path) -> bool:
    """Whether the folder holds a run that can be resumed; its configuration is written last."""
    return files.there(folder / "config.json")


def unborn(folder: Path) -> bool:
    """Whether the folder is empty, or holds only a run that was killed before it could be resumed."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    # A folder with later checkpoints is a run that has lost its config.json, and can be repaired.
    later = [path.name for path in folder.glob("checkpoints/*") if path.name.partition(".")[0] != "0"]
    return LOCK in names and names <= _BEFORE_THE_FIRST_ITERATION and not later


def clear(folder: Path) -> None:
    """Empties a folder for which `unborn` is true, except for the lock, which the caller holds.

    Raises:
        ValueError: another run has started in the folder.
    """
    if not unborn(folder):
        raise ValueError(f"the run folder {folder} is another run's by now; choose another by --folder")
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, HELD):
            path.unlink()


@contextlib.contextmanager
def only_writer(folder: Path, lock: str = "kernel") -> Iterator[None]:
    """Holds the folder's lock. The kernel releases it when the process ends for any reason.

    The file ``lock`` names the owner, and is emptied when the lock is released. If the file system does not support
    kernel locks, ``lock.held`` can replace them: a process creates it exclusively and removes it at the end, unless it
    is killed.

    Args:
        folder: an existing folder.
        lock: "kernel", or "file" to use ``lock.held`` as well.

    Raises:
        ValueError: another process holds the lock, or the file system does not support locks.
        OSError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(files.opened(folder / LOCK, "a+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(_in_use(folder, owner(folder / LOCK))) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if lock != "file":
                raise ValueError(
                    f"the file system of {folder} has no locks ({os.strerror(error.errno).lower()}); --lock file "
                    "takes one that works there, or choose another folder by --folder"
                ) from error
        if lock == "file":
            stack.enter_context(_held(folder))
        elif files.there(folder / HELD):
            raise ValueError(_in_use(folder, owner(folder / HELD)))
        file.truncate(0)
        file.write(_signature())
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # disk full or gone: the lock must still be released
                file.truncate(0)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    path = folder / HELD
    try:
        with files.opened(path, "x") as file:
            file.write(_signature())
    except FileExistsError as error:
        raise ValueError(_in_use(folder, owner(path))) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _signature() -> str:
    entry = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().isoformat(" ", "seconds"),
    }
    return json.dumps(entry) + "\n"


def owner(lock: Path) -> dict[str, Any] | None:
    """The owner named in a lock's file; None if the owner has just taken it and not written it yet."""
    try:
        content = json_text.loads(files.read(lock))
        return {"process": int(content["process"]), "host": str(content["host"]), "since": str(content["since"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running(owner: dict[str, Any] | None) -> bool:
    """Whether the owner of a lock may still be running; always True for owners on other hosts."""
    if owner is None or owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        return True
    return True


def _in_use(folder: Path, owner: dict[str, Any] | None) -> str:
    holder = f"process {owner['process']} on {owner['host']} (since {owner['since']})" if owner else "another process"
    if not files.there(folder / HELD):
        return f"the folder {folder} is in use by {holder}; wait for it, stop it, or choose another folder by --folder"
    ended = "which no longer runs" if not running(owner) else "if that has ended"
    return f"the folder {folder} is in use by {holder}; {ended}: remove {folder / HELD}, or choose another --folder"
