"""A terminal for a process that thinks that somebody looks at it."""

import contextlib
import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def terminal(rows: int, columns: int, log: Path) -> Iterator[int]:
    """The end that a process writes to, within the context; what it writes is read by a thread, and goes to a file."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read() -> None:
        with log.open("ab") as file, contextlib.suppress(OSError):  # the error that says that nobody writes any more
            while data := os.read(ours, 65536):
                file.write(data)
                file.flush()
        os.close(ours)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield theirs
    finally:
        os.close(theirs)
