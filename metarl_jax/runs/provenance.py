"""Where a run's numbers come from: versions, hardware, the revision of the source. Checkpoints record it."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("metarl-jax", "jax", "jaxlib", "flax", "optax", "brax", "orbax-checkpoint")


@functools.cache
def provenance() -> dict[str, Any]:
    """``{"versions": {name: version}, "hardware": {name: value}, "revision": str | None}`` of this process."""
    return {"versions": versions(), "hardware": hardware(), "revision": revision()}


def versions() -> dict[str, str]:
    """Installed versions of what determines a run's numbers; a package that is missing is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """What sums in another order, or rounds otherwise, where it differs."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": str(jax.device_count()),
        "processes": str(jax.process_count()),
        "machine": platform.machine(),
    }


def revision() -> str | None:
    """The git commit of the source, with "-dirty" where files were changed since; None: it is not under git."""
    package = Path(__file__).resolve().parents[1]
    # A virtual environment within someone's repository is not that repository's source.
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    return _git(package, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return None
    return done.stdout.strip()
