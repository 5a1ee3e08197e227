"""SIGTERM, SIGINT, SIGHUP: a training loop ends after the current chunk with a checkpoint; other code ends at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from metarl_jax.runs.console.cli import RunStopped


class Interrupted(RunStopped):
    """A signal stopped a run. Scripts exit with status 128 + signal number, as shells and schedulers expect."""

    def __init__(self, signum: int, message: str):
        super().__init__(f"stopped by {signal.Signals(signum).name}: {message}")
        self.status = 128 + signum


class Signals:
    """A signal handler that records the signal and raises, or only records it in patient mode.

    Clusters send SIGTERM some time before SIGKILL.
    """

    def __init__(self, hint: Callable[[], str]):
        self.hint, self._patient = hint, False
        """returns a hint on how to continue"""
        self.received: int | None = None
        """number of the received signal"""

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        first, self.received = self.received is None, signum
        if not (self._patient and first):  # a second signal is urgent
            raise Interrupted(signum, self.hint())

    def interrupted(self, text: str) -> Interrupted:
        """The exception to raise for the recorded signal, after a checkpoint."""
        return Interrupted(self.received or signal.SIGTERM, f"{text}; {self.hint()}")

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Patient mode: a signal is only recorded in `received`; a second one still raises."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False


@contextlib.contextmanager
def handled(hint: Callable[[], str]) -> Iterator[Signals]:
    """Installs a handler for the signals inside the context.

    Args:
        hint: returns a hint on how to continue, for the user's message.
    """
    signals = Signals(hint)
    with installed(signals):
        yield signals


GRACE = 5.0
"""seconds between a second signal and the forced end of the process"""


@contextlib.contextmanager
def insistent() -> Iterator[None]:
    """Inside the context, a second SIGTERM, SIGINT or SIGHUP ends the process after `GRACE` seconds in any case.

    Python runs signal handlers between bytecode instructions, so not while an instruction waits for a device program
    that hangs. But the signal number is written immediately to a socket, which a thread reads. This applies only to
    signals with a Python handler; SIGTERM without one ends the process anyway. No-op outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)  # required by set_wakeup_fd
    exited = threading.Event()

    def watch() -> None:
        numbers: list[int] = []
        while len(numbers) < 2:
            data = receiver.recv(1)
            if not data:
                return
            numbers += [number for number in data if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        if exited.wait(GRACE):
            return
        name = signal.Signals(numbers[-1]).name
        print(
            f"error: stopped by {name}, the second signal, in a program that does not end; every whole checkpoint is "
            "kept, and a training run goes on from the newest with --resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(128 + numbers[-1])

    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        exited.set()
        sender.close()
        watcher.join()
        receiver.close()


@contextlib.contextmanager
def installed(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Installs a handler for SIGTERM, SIGINT and SIGHUP. No-op outside the main thread, where Python cannot do this.

    SIGHUP stays ignored if it is, since a script started with nohup must outlive the terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [signal.SIGTERM, signal.SIGINT]
    handled += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    before = {signum: signal.signal(signum, handler) for signum in handled}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)
