"""JSON that somebody may have written by hand, cut off, or made up."""

import json
from typing import Any


def loads(text: str) -> Any:
    """As `json.loads`, which lets a key stand twice and silently takes the last.

    Raises:
        ValueError: it is not JSON, a key stands twice, it is nested too deep, or a number has too many digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in an object, and only one can be meant")
    return found
