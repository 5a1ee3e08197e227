"""One wording for every wrong name: the value, what is allowed, and the nearest valid one."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any


def unknown(kind: str, value: object, allowed) -> ValueError:
    """The error for a `value` that is none of the `allowed` names."""
    names = sorted(allowed)
    close = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return ValueError(f"unknown {kind} {value!r}: {hint}choose from {', '.join(names)}")


def choose(kind: str, value: str | Callable, registered: Mapping[str, Any]) -> Any:
    """A registered part by its name, or the user's own, if `value` is a function.

    Raises:
        ValueError: the name is not registered.
    """
    if callable(value):
        return value
    if value not in registered:
        raise unknown(kind, value, registered)
    return registered[value]
