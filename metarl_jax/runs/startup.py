"""Ctrl-C before a script's own handling of it: while its imports take their time, and after its end.

Importing this module takes a millisecond.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

Handler = Callable[[int, FrameType | None], None]

INTERRUPTED = "interrupted; a training run goes on from its last checkpoint with --resume"


def end(signum: int, frame: FrameType | None = None) -> NoReturn:
    """Ends the process. Raised in the middle of an import, an exception could be printed, wrapped or swallowed."""
    try:
        os.write(2, f"{INTERRUPTED}\n".encode())
    finally:
        os._exit(128 + signum)


def quiet() -> None:
    """What a script calls before it imports the rest: from here on Ctrl-C is a line and status 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def awake() -> contextlib.AbstractContextManager[None]:
    """Within it, Ctrl-C raises KeyboardInterrupt, which closes files and folders on its way."""
    return _instead(end, signal.default_int_handler)


def at_once() -> contextlib.AbstractContextManager[None]:
    """Within it, Ctrl-C ends the process: an import of NumPy makes a KeyboardInterrupt an ImportError of a page."""
    return _instead(signal.default_int_handler, end)


@contextlib.contextmanager
def _instead(one: Handler, other: Handler) -> Iterator[None]:
    """Has one handler of SIGINT for another; nothing is changed where that is not in force."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not one:
        yield
        return
    signal.signal(signal.SIGINT, other)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, one)
