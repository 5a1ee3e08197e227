"""Handling of Ctrl-C during a script's slow imports and after its end.

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
    """Signal handler that ends the process; an exception raised during an import could be wrapped or swallowed."""
    try:
        os.write(2, f"{INTERRUPTED}\n".encode())
    finally:
        os._exit(128 + signum)


def quiet() -> None:
    """Called by scripts before their imports: from now on, Ctrl-C prints one line and exits with status 130."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def awake() -> contextlib.AbstractContextManager[None]:
    """Inside the context, Ctrl-C raises KeyboardInterrupt, so that files are closed and locks released."""
    return _instead(end, signal.default_int_handler)


def at_once() -> contextlib.AbstractContextManager[None]:
    """Inside the context, Ctrl-C ends the process: importing NumPy would turn KeyboardInterrupt into an ImportError."""
    return _instead(signal.default_int_handler, end)


@contextlib.contextmanager
def _instead(one: Handler, other: Handler) -> Iterator[None]:
    """Replaces the SIGINT handler `one` by `other` inside the context, if `one` is the current handler."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not one:
        yield
        return
    signal.signal(signal.SIGINT, other)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, one)
