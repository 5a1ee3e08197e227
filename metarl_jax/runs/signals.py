"""SIGTERM, SIGINT, SIGHUP: a training loop ends after the chunk that runs, with a checkpoint; all else ends at once."""

import contextlib
import signal
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
