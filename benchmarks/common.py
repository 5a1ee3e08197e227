"""What the benchmarks share: a line about the machine, and their result files."""

import json
import os
import platform
from pathlib import Path
from typing import Any


def machine() -> str:
    """Device, cores that this process may use, and versions, for the record of a measurement."""
    import jax  # a script's help text does not need it

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{jax.devices()[0].device_kind}, {cores} cores, Python {platform.python_version()}, jax {jax.__version__}"


def write(results: dict[str, Any], path: Path) -> None:
    """Writes results as JSON, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path}")
