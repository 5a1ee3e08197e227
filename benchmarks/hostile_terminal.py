"""Pseudo-terminals for processes."""

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
    """Context manager for the process's end of a pseudo-terminal; a thread copies the output to a file."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read() -> None:
        with log.open("ab") as file, contextlib.suppress(OSError):  # raised when the process's end is closed
            while data := os.read(ours, 65536):
                file.write(data)
                file.flush()
        os.close(ours)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield theirs
    finally:
        os.close(theirs)
