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
from benchmarks.hostile_tools import KEEPS, Case, Keeps

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
    """What must hold of a case, in words."""
    statuses: dict[Keeps, list[str]] = {}
    for status, keeps in case.ends.items():
        statuses.setdefault(keeps, []).append(str(status).replace("-", "−"))
    return "; or ".join(f"status {' or '.join(found)}: {KEEPS[keeps]}" for keeps, found in statuses.items())
