"""Compiles programs in parallel processes, then times them one after the other in one process.

Programs are pure functions of a flat list of arrays, so that executables can be passed from the compiling process to
the timing process.
"""

import dataclasses
import hashlib
import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator_programs import PROGRAMS


def _file(folder: Path, name: str) -> Path:
    return folder / f"{list(PROGRAMS).index(name):02d}.executable"


def compile_to(folder: Path, name: str, scale: float) -> dict[str, Any]:
    """Traces and compiles a program, and writes the executable with its arguments to a folder.

    Returns:
        Seconds of tracing and compilation, and planned memory.
    """
    import contextlib

    import jax
    import numpy as np
    from jax.experimental import serialize_executable

    program = PROGRAMS[name]
    began = time.perf_counter()
    function, arguments, steps = program.build(scale)
    # Plain arrays in flat lists, which can be passed between processes: keys as their data, no structs.
    raw = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, arguments)
    is_key = [_is_key(leaf) for leaf in jax.tree.leaves(arguments)]
    structure = jax.tree.structure(arguments)

    def flat(*leaves):
        typed = [jax.random.wrap_key_data(x) if key else x for x, key in zip(leaves, is_key, strict=True)]
        return jax.tree.leaves(function(*jax.tree.unflatten(structure, typed)))

    chosen = jax.default_matmul_precision(program.precision) if program.precision else contextlib.nullcontext()
    with chosen:
        lowered = jax.jit(flat).lower(*jax.tree.leaves(raw))
    traced = time.perf_counter()
    print(f"traced after {traced - began:.1f} s", flush=True)
    compiled = lowered.compile()
    done = time.perf_counter()
    executable, _, _ = serialize_executable.serialize(compiled)
    content = (executable, [np.asarray(leaf) for leaf in jax.tree.leaves(raw)], compiled.out_tree.num_leaves, steps)
    partial = _file(folder, name).with_suffix(".partial")
    partial.write_bytes(pickle.dumps(content))
    partial.rename(_file(folder, name))
    memory = compiled.memory_analysis()
    return {
        "trace_seconds": traced - began,
        "compile_seconds": done - traced,
        "temp_MiB": None if memory is None else memory.temp_size_in_bytes / 2**20,
    }


def _is_key(leaf: Any) -> bool:
    import jax
    import jax.numpy as jnp

    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@dataclasses.dataclass
class Job:
    name: str
    process: subprocess.Popen[str]
    log: Path


def farm(folder: Path, names: Sequence[str], scale: float, workers: int, ends: float) -> Iterator[tuple[str, str]]:
    """Compiles the programs in separate processes, `workers` at a time, until the time `ends`.

    Yields:
        Name of a program and the last line of its process: figures as JSON, or an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting, running = list(names), []
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(_start(folder, waiting.pop(0), scale))
        time.sleep(0.2)
        late = time.time() > ends
        for job in list(running):
            if late:
                job.process.kill()
            if job.process.poll() is None and not late:
                continue
            running.remove(job)
            lines = job.log.read_text(errors="replace").strip().splitlines() or [f"status {job.process.returncode}"]
            yield job.name, f"time was up; its last words: {' | '.join(lines[-2:])}" if late else lines[-1]
        if late:
            yield from ((name, "time was up before it began") for name in waiting)
            return


def _start(folder: Path, name: str, scale: float) -> Job:
    log = _file(folder, name).with_suffix(".log")
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {PROGRAMS[name].flags}".strip()
    script = "import json, sys, pathlib; from benchmarks.accelerator_farm import compile_to; "
    script += "print(json.dumps(compile_to(pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))))"
    command = [sys.executable, "-c", script, str(folder), name, str(scale)]
    root = Path(__file__).resolve().parent.parent
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
    return Job(name, process, log)


class Loaded:
    """A compiled program with its arguments on the device; a call runs it and returns the seconds."""

    def __init__(self, folder: Path, name: str):
        import jax
        from jax.experimental import serialize_executable

        executable, leaves, outputs, self.steps = pickle.loads(_file(folder, name).read_bytes())
        self._leaves = [jax.device_put(leaf) for leaf in leaves]
        takes = jax.tree.structure((tuple(leaves), {}))
        gives = jax.tree.structure([0] * outputs)
        self._program = serialize_executable.deserialize_and_load(
            executable, takes, gives, execution_devices=jax.devices()[:1]
        )

    def __call__(self) -> float:
        import jax

        began = time.perf_counter()
        jax.block_until_ready(self._program(*self._leaves))
        return time.perf_counter() - began

    def digest(self) -> str:
        """Digest of a call's results."""
        import jax
        import numpy as np

        digest = hashlib.sha256()
        for leaf in jax.device_get(self._program(*self._leaves)):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]


def _prepare_linear_algebra() -> None:
    """Loads LAPACK or cuSOLVER for executables of other processes; JAX loads them when it first traces such a call."""
    import jax.numpy as jnp
    from jax.scipy.linalg import solve_triangular

    solve_triangular(jnp.linalg.qr(jnp.eye(3), mode="r"), jnp.ones(3)).block_until_ready()


def time_group(folder: Path, names: Sequence[str], rounds: int, seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs programs in turn, after an uncounted first call of each.

    Args:
        folder: folder of the executables.
        names: names of the programs.
        rounds: maximum number of measurements per program.
        seconds: time limit of the group; each program is measured at least once.

    Yields:
        Name of a program and its figures, or an error.
    """
    _prepare_linear_algebra()
    began, loaded, taken = time.time(), {}, {}
    for name in names:
        if not _file(folder, name).exists():
            continue
        try:
            program = Loaded(folder, name)
            first = program()
            bits = [program.digest() for _ in range(3)]
        except Exception as error:  # a program that runs out of memory must not stop the others
            yield name, {"failed": f"{type(error).__name__}: {error}"[:300]}
            continue
        loaded[name], taken[name] = program, []
        yield name, {"first_call_seconds": first, "repeats_itself": len(set(bits)) == 1, "bits": bits[0]}
    for _ in range(rounds):
        for name, program in loaded.items():
            taken[name].append(program())
        if time.time() - began > seconds:
            break
    for name, program in loaded.items():
        times = taken[name]
        if times:
            median = statistics.median(times)
            figures = {"seconds": median, "low": min(times), "high": max(times), "rounds": len(times)}
            yield name, figures | {"steps": program.steps, "steps_per_second": program.steps / median}


def trace(folder: Path, names: Sequence[str], out: Path) -> Iterator[tuple[str, float]]:
    """Records one call of each compiled program with JAX's profiler, after an unrecorded call.

    Args:
        folder: folder of the executables.
        names: names of the programs.
        out: folder of the traces, one per program.

    Yields:
        Name of a program, and the seconds of the recorded call.
    """
    import jax

    for name in names:
        if _file(folder, name).exists():
            program = Loaded(folder, name)
            program()
            with jax.profiler.trace(str(out / name.replace(" ", "-").replace(",", ""))):
                seconds = program()
            yield name, seconds


def figures_of(line: str) -> dict[str, Any]:
    """Result of a program's process."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {"failed": line[:300]}
