"""SIGTERM, SIGINT, SIGHUP: a training loop ends after the chunk that runs, with a checkpoint; all else ends at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from metarl_jax.runs.cli import RunStopped


class Interrupted(RunStopped):
    """A signal ended a run. Scripts exit with status 128 + its number, as shells and schedulers expect."""

    def __init__(self, signum: int, message: str):
        super().__init__(f"stopped by {signal.Signals(signum).name}: {message}")
        self.status = 128 + signum


class Signals:
    """What arrived, and whether it may end the run at once. Clusters send SIGTERM some time before they kill."""

    def __init__(self, hint: Callable[[], str]):
        self.hint, self._patient = hint, False
        """says how to go on"""
        self.received: int | None = None
        """the number of the signal that asks a patient part to stop"""

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """The handler."""
        first, self.received = self.received is None, signum
        if not (self._patient and first):  # a second one means it
            raise Interrupted(signum, self.hint())

    def interrupted(self, text: str) -> Interrupted:
        """What to raise for the signal that was noted, once everything is safe."""
        return Interrupted(self.received or signal.SIGTERM, f"{text}; {self.hint()}")

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Within it, a signal is only noted in `received`; a second one ends the run all the same."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False


@contextlib.contextmanager
def handled(hint: Callable[[], str]) -> Iterator[Signals]:
    """Handles the signals within it.

    Args:
        hint: says how to go on, for the line that the user sees.
    """
    signals = Signals(hint)
    with installed(signals):
        yield signals


GRACE = 5.0
"""seconds that Python code has to end the process after a second signal"""


@contextlib.contextmanager
def insistent() -> Iterator[None]:
    """Within it, a second SIGTERM, SIGINT or SIGHUP ends the process after `GRACE` seconds, whatever it does by then.

    Python runs a signal's handler between two of its own operations, so never while one waits for a device program that
    does not end. What is noted at once is the signal's number, in a socket that a thread reads. Only where SIGTERM has
    a handler; without one it ends the process by itself. For scripts; outside of the main thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived, noted = socket.socketpair()
    noted.setblocking(False)  # as set_wakeup_fd wants it
    left = threading.Event()

    def watch() -> None:
        numbers: list[int] = []
        while len(numbers) < 2:
            told = arrived.recv(1)
            if not told:
                return
            numbers += [number for number in told if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        if left.wait(GRACE):
            return
        name = signal.Signals(numbers[-1]).name
        print(
            f"error: stopped by {name}, the second signal, in a program that does not end; every whole checkpoint is "
            "kept, and a training run goes on from the newest with --resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(128 + numbers[-1])

    before = signal.set_wakeup_fd(noted.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        left.set()
        noted.close()
        watcher.join()
        arrived.close()


@contextlib.contextmanager
def installed(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """The signals have this handler within it. Outside of the main thread, where Python cannot, they keep theirs.

    A SIGHUP that is ignored stays so: who starts a script by nohup wants it to outlive the terminal.
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
