"""Strict reading of JSON from untrusted files."""

import json
from typing import Any


def loads(text: str) -> Any:
    """As `json.loads`, but rejects duplicate keys, of which `json.loads` silently uses the last.

    Raises:
        ValueError: it is not JSON, has a duplicate key, is nested too deep, or has a number with too many digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in an object, and only one can be meant")
    return result
