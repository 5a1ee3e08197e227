"""What the benchmarks share: how they time programs, ask for planned memory, and write their result files."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def machine() -> str:
    """As `metarl_jax.runs.checkpoint.provenance.machine`, which a script's help text does not need."""
    from metarl_jax.runs.checkpoint import provenance

    return provenance.machine()


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one call, until its results are available."""
    import jax

    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    return time.perf_counter() - wall, time.process_time() - cpu


def alternate(repeats: int, *functions: Callable[[], Any]) -> "np.ndarray":
    """Seconds [repeats, functions, (wall, CPU)], each function once a round, after a first round that compiles."""
    import numpy as np

    return np.array([[timed(function) for function in functions] for _ in range(repeats + 1)])[1:]


def planned_bytes(compiled: Any) -> int:
    """Temporary memory that XLA plans for a compiled program.

    Raises:
        RuntimeError: the backend plans none.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise RuntimeError("this backend plans no memory")
    return analysis.temp_size_in_bytes


def write(results: dict[str, Any], path: Path) -> None:
    """Writes results as JSON, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path}")
