"""Checks of environment options: one line that names the value, what is allowed and, for names, the nearest one."""

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any


def unknown(kind: str, value: Any, allowed: Iterable[str]) -> ValueError:
    """The error for a name that does not exist, with the nearest names that do."""
    allowed = list(allowed)
    near = difflib.get_close_matches(str(value), allowed, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return ValueError(f"unknown {kind} {value!r}; {hint}choose one of: {', '.join(allowed) or '(none)'}")


def positive_int(name: str, value: Any) -> int:
    """`value` if it is a positive integer, else a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a positive integer")
    return value


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def finite(name: str, value: Any) -> float:
    """`value` if it is a finite number, else a ValueError."""
    if not _number(value):
        raise ValueError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def positive(name: str, value: Any) -> float:
    """`value` if it is a positive finite number, else a ValueError."""
    if not _number(value) or value <= 0:
        raise ValueError(f"{name} is {value!r}; it must be a positive number")
    return float(value)


def non_negative(name: str, value: Any) -> float:
    """`value` if it is a finite number of at least 0, else a ValueError."""
    if not _number(value) or value < 0:
        raise ValueError(f"{name} is {value!r}; it must be a number of at least 0")
    return float(value)


def interval(name: str, value: Any) -> tuple[float, float]:
    """`value` if it is a pair (low, high) with low < high, else a ValueError."""
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(_number, value)) or value[0] >= value[1]:
        raise ValueError(f"{name} is {value!r}; it must be a pair (low, high) of numbers with low < high")
    return float(value[0]), float(value[1])
