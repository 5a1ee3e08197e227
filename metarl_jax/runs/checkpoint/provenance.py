"""Package versions, hardware and source revision, which checkpoints record."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("metarl-jax", "jax", "jaxlib", "flax", "optax", "brax", "orbax-checkpoint")


@functools.cache
def provenance() -> dict[str, Any]:
    """``{"versions": {name: version}, "hardware": {name: value}, "revision": str | None}`` of this process."""
    return {"versions": versions(), "hardware": hardware(), "revision": revision()}


def changes(record: Mapping[str, Any], goes_on: bool = True) -> list[str]:
    """What differs between this process and the one whose `provenance` a record holds, a sentence each.

    Args:
        record: that of a checkpoint.
        goes_on: whether training goes on from it. If not, another commit is not worth a sentence.
    """
    now, differ = provenance(), "numbers may differ from those of an uninterrupted run"
    notes = [
        f"the checkpoint was written with {part} {before.get(part)}, this is {value}: {differ}"
        for before, parts in ((record.get(name) or {}, now[name]) for name in ("versions", "hardware"))
        for part, value in parts.items()
        if before.get(part) != value
    ]
    written, source = record.get("revision"), now["revision"]
    if goes_on and written and source and written != source:
        notes.append(f"the checkpoint was written by the source {_short(written)}, this is {_short(source)}: {differ}")
    return notes


def _short(revision: str) -> str:
    """A commit with ten digits, and whether files had changed."""
    commit, dash, dirty = revision.partition("-")
    return commit[:10] + dash + dirty


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that affect a run's numerical results."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def hardware() -> dict[str, str]:
    """Hardware properties that affect rounding or the order of summation."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": str(jax.device_count()),
        "processes": str(jax.process_count()),
        "machine": platform.machine(),
    }


def machine() -> str:
    """Devices, cores that this process may use, and versions, as one line beside a measurement."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = f"{jax.device_count()} × {jax.devices()[0].device_kind}, {cores} cores, {platform.machine()}"
    return f"{device}, Python {platform.python_version()}, jax {jax.__version__}"


def revision() -> str | None:
    """The git commit of the source, with "-dirty" if files have changed; None if it is not in a git repository."""
    package = Path(__file__).resolve().parents[2]
    # The package may be in a virtual environment inside an unrelated repository.
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        git = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return None
    return git.stdout.strip()
