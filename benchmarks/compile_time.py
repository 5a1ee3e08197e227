"""Compile times: is the physics compiled only once, and how much does the persistent compilation cache save?

python benchmarks/compile_time.py

1. Seconds from a fresh process to the first finished update of MAML on cheetah, with L = 3 and L = 1 inner steps and
   no cache, at sizes so small that compilation dominates. The program should contain the physics once for any L; the
   number of instructions in the optimised program shows this without noise.
2. Seconds from the start of ``experiments/train.py`` on reacher-goal to its first iteration, with an empty and a
   filled compilation cache.

Measurements alternate; ratios are of medians.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import tyro

from benchmarks import common

ROOT = Path(__file__).resolve().parent.parent

FIRST_UPDATE = """
import sys, time
began = time.perf_counter()
import jax
import metarl_jax as mrl
env = mrl.envs.make("cheetah-dir", horizon=5)
algorithm = mrl.algorithms.make("maml", env, tasks=2, episodes=2, adaptation_steps=int(sys.argv[1]))
state = algorithm.init(jax.random.key(0))
compiled = jax.jit(algorithm.update).lower(jax.random.key(1), state).compile()
jax.block_until_ready(compiled(jax.random.key(1), state))
seconds = time.perf_counter() - began
print(seconds, sum(" = " in line for line in compiled.as_text().splitlines()))
"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    repeats: int = 2
    """fresh processes of each kind"""
    output: Path | None = None
    """JSON output file"""


def environment(cache: str | None) -> dict[str, str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    return variables if cache is None else {**variables, "JAX_COMPILATION_CACHE_DIR": cache}


def first_update(steps: int) -> tuple[float, int]:
    """Seconds until the first update with L = `steps` is done, and instructions of its program."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_UPDATE, str(steps)],
        env=environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, instructions = done.stdout.split()[-2:]
    return float(seconds), int(instructions)


def first_iteration(cache: str) -> float:
    """Seconds from the start of the training script until the row of its first iteration is on disk."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "experiments" / "train.py"), "--preset", "reacher-goal"]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--folder", str(run)],
            env=environment(cache),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while True:
                if process.poll() is not None:
                    raise RuntimeError(f"the training script ended early, with status {process.returncode}")
                metrics = run / "metrics.csv"
                if metrics.exists() and metrics.read_text(encoding="utf-8").count("\n") > 1:
                    return time.perf_counter() - began
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()


def main(arguments: Arguments) -> None:
    print(f"{date.today()}; medians of {arguments.repeats} fresh processes each")
    updates: dict[int, list[tuple[float, int]]] = {1: [], 3: []}
    for _ in range(arguments.repeats):
        for steps, measured in updates.items():
            measured.append(first_update(steps))
    seconds = {steps: statistics.median(second for second, _ in measured) for steps, measured in updates.items()}
    instructions = {steps: measured[0][1] for steps, measured in updates.items()}
    print("\nfirst finished update, MAML on cheetah-dir, no cache")
    for steps in updates:
        print(f"  L = {steps}: {seconds[steps]:6.1f} s, {instructions[steps]:,} instructions")
    print(f"  ratio {seconds[3] / seconds[1]:.2f} in time, {instructions[3] / instructions[1]:.3f} in instructions")

    starts: dict[str, list[float]] = {"empty": [], "filled": []}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for kind in starts:  # the first start fills the cache for the second
                starts[kind].append(first_iteration(cache))
    cold, warm = statistics.median(starts["empty"]), statistics.median(starts["filled"])
    print("\nfirst iteration of experiments/train.py --preset reacher-goal")
    print(f"  empty cache {cold:.1f} s, filled cache {warm:.1f} s: {cold / warm:.1f} × faster")
    if arguments.output:
        figures = {
            "machine": common.machine(),  # asked last, since it takes the device that the processes need
            "date": str(date.today()),
            "first_update_seconds": seconds,
            "instructions": instructions,
            "first_iteration_seconds": {"empty cache": cold, "filled cache": warm},
            "all": {"updates": updates, "starts": starts},
        }
        common.write(figures, arguments.output)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
