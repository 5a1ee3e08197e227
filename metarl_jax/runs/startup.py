"""Ctrl-C before a script's own handling of it: while its imports take their time, and after its end.

Importing this module takes a millisecond.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = "interrupted; a training run goes on from its last checkpoint with --resume"


def _end(signum: int, frame: FrameType | None) -> None:
    """Ends the process. Raised in the middle of an import, an exception could be printed, wrapped or swallowed."""
    try:
        os.write(2, f"{INTERRUPTED}\n".encode())
    finally:
        os._exit(128 + signum)


def quiet() -> None:
    """What a script calls before it imports the rest: from here on Ctrl-C is a line and status 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Within it, Ctrl-C raises KeyboardInterrupt, which closes files and folders on its way."""
    if signal.getsignal(signal.SIGINT) is not _end:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _end)
