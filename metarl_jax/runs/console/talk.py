"""Console output of plain text: user-chosen names are not interpreted as markup or emoji."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text


def line(console: Console, text: str) -> None:
    """Prints a line without inserting line breaks, so that paths in it can be copied."""
    console.print(Text(text), soft_wrap=True)


def note(console: Console, text: str) -> None:
    """Prints a note for the user."""
    console.print(Text.assemble(("note:", "yellow"), f" {text}"), soft_wrap=True)


@contextlib.contextmanager
def noted(console: Callable[[], Console]) -> Iterator[None]:
    """Inside the context, messages of the library's logger are printed as notes on a new console."""

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
    """Prints the path of a written file and a description."""
    console.print(Text.assemble(f"  {path}  ", (meaning, "dim")), soft_wrap=True)


def status(console: Console, text: str) -> Status:
    """Context manager that shows the current activity on a terminal."""
    return console.status(Text(text))
