"""A run folder and its lock: one writer at a time."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

LOCK = "lock"


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
                f"the run folder {folder} is in use by {_owner(file)}; wait for it, stop it, or choose another "
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
        owner = json.loads(file.read())
        return f"process {owner['process']} on {owner['host']} (since {owner['since']})"
    except (ValueError, KeyError, TypeError):  # it was just taken, and its owner has not signed yet
        return "another process"
