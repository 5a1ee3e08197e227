"""Compiles whole programs for an H100 on a machine without a GPU: launches by phase, library calls, planned memory.

pip install ".[gpu-programs]"        # or the packages of that extra by `pip install --target FOLDER`, about 2 GB
python benchmarks/gpu_programs.py    # all programs; those with Brax's physics take up to minutes to compile
python benchmarks/gpu_programs.py --programs promp:point-nav bare:cheetah-dir:spring
python benchmarks/gpu_programs.py --cuda-packages FOLDER --output benchmarks/results/gpu_programs.json

Programs are not run, so there are no times; but if kernels are small, an update takes some microseconds per launch.
benchmarks/hlo_launches.py defines a launch. Copies by the physics that remain in a rollout count for the rollout. An
output file is updated after each program, and keeps its other programs. If the packages are missing or do not match
jax's release, the exit status is 77: skipped.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import tyro

SKIPPED = 77
"""exit status if the compiler's packages are missing, which test harnesses read as skipped"""
PROGRAMS = (
    "promp:point-nav",
    "maml-trpo:point-nav",
    "rl2:point-nav",
    "promp:point-nav:seeds=8",
    "promp:reacher-goal",
    "bare:cheetah-dir:spring",
    "bare:ant-dir:spring",
    "bare:cheetah-dir:mjx",
    "bare:ant-dir:mjx",
    "promp:cheetah-dir",
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    programs: tuple[str, ...] = PROGRAMS
    """one update as algorithm:task or algorithm:task:seeds=R, or physics alone as bare:task:backend"""
    tasks: int = 40
    """B"""
    episodes: int = 20
    """N"""
    horizon: int = 100
    """T"""
    cuda_packages: Path | None = None
    """target folder of `pip install --target` with the packages of the extra gpu-programs"""
    output: Path | None = None
    """JSON output file"""
    hlo: Path | None = None
    """folder for the texts of the compiled programs"""


def program(name: str, arguments: Arguments) -> tuple[Callable, tuple]:
    """A function and abstract arguments.

    Raises:
        ValueError: there is no such program.
    """
    import jax

    import metarl_jax as mrl
    from benchmarks.meta_iteration import simulation

    match name.split(":"):
        case ["bare", task, backend]:
            env = mrl.envs.make(task, backend=backend, horizon=arguments.horizon)
            simulate = simulation(env, arguments.tasks * arguments.episodes, arguments.horizon, stages=1)
            return jax.named_scope("physics")(simulate), (jax.eval_shape(lambda: jax.random.key(0)),)
        case [algorithm, task, *seeds]:
            env = mrl.envs.make(task, horizon=arguments.horizon)
            made = mrl.algorithms.make(algorithm, env, tasks=arguments.tasks, episodes=arguments.episodes)
            init, update, keys = made.init, made.update, jax.eval_shape(lambda: jax.random.key(0))
            if seeds:
                number = int(seeds[0].removeprefix("seeds="))
                init, update = jax.vmap(init), jax.vmap(update)
                keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), number))
            return update, (keys, jax.eval_shape(init, keys))
        case _:
            raise ValueError(f"program {name!r} is no algorithm:task, algorithm:task:seeds=R or bare:task:backend")


def topology() -> Any:
    """Description of a machine with one H100, which need not exist."""
    import jax
    from jax.experimental import topologies

    described = (Path(__file__).parent / "h100.txtpb").read_text(encoding="utf-8")
    machine = topologies.get_topology_desc(platform="cuda", target_config=described, topology="1x1x1")
    mesh = topologies.make_mesh(machine, (1,), ("devices",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def figures(name: str, arguments: Arguments, placed: Any) -> dict[str, Any]:
    """Statistics of the compiled program."""
    import jax

    from benchmarks.hlo_launches import count_launches, imprecise_dots

    function, shapes = program(name, arguments)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed, weak_type=leaf.weak_type), shapes
    )
    began = time.perf_counter()
    lowered = jax.jit(function, out_shardings=placed).lower(*shapes)
    compiled = lowered.compile()
    seconds, text, memory = time.perf_counter() - began, compiled.as_text(), compiled.memory_analysis()
    assert text is not None
    assert memory is not None
    if arguments.hlo:
        arguments.hlo.mkdir(parents=True, exist_ok=True)
        (arguments.hlo / f"{name.replace(':', '_')}.txt").write_text(text, encoding="utf-8")
    found = count_launches(text)
    return {
        "program": name,
        "sizes": f"{arguments.tasks} tasks × {arguments.episodes} episodes × {arguments.horizon} steps",
        "launches": {"all": found.launches.total(), **found.launches},
        "loops": [
            {"phase": loop.phase, "depth": loop.depth, "trips": loop.trips, "launches_per_trip": dict(loop.launches)}
            for loop in found.loops
        ],
        "host_reads": found.host_reads,
        "custom_calls": found.custom_calls,
        "dots_below_highest_precision": imprecise_dots(lowered.as_text()),
        "mebibytes": {
            "temporary": memory.temp_size_in_bytes / 2**20,
            "arguments": memory.argument_size_in_bytes / 2**20,
            "outputs": memory.output_size_in_bytes / 2**20,
        },
        "seconds_to_compile": round(seconds, 1),
    }


def show(found: dict[str, Any]) -> None:
    launches, memory = found["launches"], found["mebibytes"]
    split = ", ".join(f"{phase} {number:,}" for phase, number in launches.items() if phase != "all")
    print(f"\n{found['program']}, {found['sizes']} (compiled in {found['seconds_to_compile']:.0f} s)")
    print(f"  launches    {launches['all']:,}: {split}; the host reads a decision {found['host_reads']:,} times")
    for loop in found["loops"]:
        trips = "unknown number of" if loop["trips"] is None else f"{loop['trips']:,}"
        each = ", ".join(f"{phase} {number:,}" for phase, number in loop["launches_per_trip"].items())
        print(f"    {'  ' * loop['depth']}loop of {loop['phase']}: {trips} × ({each})")
    print("  calls       " + (", ".join(f"{n:,} × {name}" for name, n in found["custom_calls"].items()) or "none"))
    print(f"  precision   {found['dots_below_highest_precision']} float32 products below the highest")
    print("  memory      " + ", ".join(f"{name} {size:,.1f} MiB" for name, size in memory.items()), flush=True)


def missing() -> str | None:
    """Reason why programs cannot be compiled here."""
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        return 'the CUDA compiler is missing: pip install ".[gpu-programs]" (Python 3.12 or newer), or --cuda-packages'
    jax, plugin = (importlib.metadata.version(name) for name in ("jax", "jax-cuda13-plugin"))
    if jax.split(".")[:3] != plugin.split(".")[:3]:
        return f"jax is {jax} and jax-cuda13-plugin {plugin}; they must be of the same release"
    return None


def save(path: Path, found: dict[str, Any]) -> None:
    """Writes a program's figures to the file, replacing those of the same program and sizes."""

    def same(other):
        return all(other[name] == found[name] for name in ("program", "sizes"))

    kept = json.loads(path.read_text(encoding="utf-8"))["programs"] if path.exists() else []
    programs = [*(other for other in kept if not same(other)), found]
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "what": "compiled for one NVIDIA H100 (benchmarks/h100.txtpb) without one; nothing was run",
        "how": "python benchmarks/gpu_programs.py --output benchmarks/results/gpu_programs.json",
    }
    path.write_text(json.dumps({**about, "programs": programs}, indent=1) + "\n", encoding="utf-8")


def main(arguments: Arguments) -> int:
    if arguments.cuda_packages:
        sys.path.insert(0, str(arguments.cuda_packages))
    if reason := missing():
        print(f"skipped: {reason}")
        return SKIPPED
    # Hides existing GPUs, which would be used instead of the described one.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jax-cuda13-plugin", "nvidia-cuda-nvcc")}
    about = {"date": str(date.today()), "versions": {"python": platform.python_version(), **versions}}
    print("; ".join([about["date"], *(f"{name} {version}" for name, version in about["versions"].items())]))
    placed = topology()
    for name in arguments.programs:
        found = figures(name, arguments, placed) | about
        show(found)
        if arguments.output:
            save(arguments.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
