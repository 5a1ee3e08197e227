"""All cases of the hostile campaign."""

from benchmarks import (
    hostile_checkpoints,
    hostile_configurations,
    hostile_files,
    hostile_names,
    hostile_signals,
    hostile_streams,
    hostile_worlds,
)
from benchmarks.hostile_tools import Case, Keeps

CASES: tuple[Case, ...] = (
    *hostile_names.CASES,
    *hostile_files.CASES,
    *hostile_configurations.CASES,
    *hostile_checkpoints.CASES,
    *hostile_worlds.CASES,
    *hostile_streams.CASES,
    *hostile_signals.CASES,
)
KINDS = tuple(dict.fromkeys(case.kind for case in CASES))


def must_hold(case: Case) -> str:
    """Requirements of a case: the allowed statuses and the conditions on files, in the words of `KEEPS`."""
    statuses: dict[Keeps, list[str]] = {}
    for status, keeps in case.ends.items():
        statuses.setdefault(keeps, []).append(str(status).replace("-", "−"))
    return "; ".join(f"status {' or '.join(found)}: {keeps}" for keeps, found in statuses.items())
