"""Lines on a console whose words are shown as they are: what a user named is neither markup nor an emoji's name."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text


def line(console: Console, text: str) -> None:
    """A line, wrapped by the terminal alone, so that a path in it can be copied whole."""
    console.print(Text(text), soft_wrap=True)


def note(console: Console, text: str) -> None:
    """What the user should know."""
    console.print(Text.assemble(("note:", "yellow"), f" {text}"), soft_wrap=True)


@contextlib.contextmanager
def noted(console: Callable[[], Console]) -> Iterator[None]:
    """Within it, what the library's logger says is a note on a new console."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(console(), record.getMessage())

    log, notes = logging.getLogger("metarl_jax"), Notes()
    before, log.propagate = log.propagate, False
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)
        log.propagate = before


def file(console: Console, path: Path, meaning: str) -> None:
    """A file that was written, and what is in it."""
    console.print(Text.assemble(f"  {path}  ", (meaning, "dim")), soft_wrap=True)


def status(console: Console, text: str) -> Status:
    """What goes on, shown on a terminal while the context that this returns is open."""
    return console.status(Text(text))
