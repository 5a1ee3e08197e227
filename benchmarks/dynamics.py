"""The cost of tasks that change the physics: simulation with one model per environment against one shared model.

python benchmarks/dynamics.py
python benchmarks/dynamics.py --robots hopper walker2d --output benchmarks/results/dynamics.json

Both programs step the same number of environments under the same random actions in one process, alternating; ratios
are of neighbouring measurements. Task sampling, once per meta-iteration, is included.
"""

import dataclasses
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import common
from metarl_jax.envs import dynamics
from metarl_jax.envs.brax_adapter import simulator

KNOBS = {
    "hopper": ("mass", "inertia", "friction", "damping"),
    "walker2d": ("mass", "inertia", "friction", "damping"),
    "halfcheetah": ("density",),
    "ant": ("mass", "inertia", "friction", "damping", "gear", "gravity"),
}
"""knobs of the family of each robot"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    robots: tuple[str, ...] = tuple(KNOBS)
    """Brax's names: hopper, walker2d, halfcheetah, ant"""
    backend: str = "spring"
    """Brax's physics"""
    batch: int = 400
    """number of parallel environments"""
    steps: int = 100
    """control steps per environment"""
    repeats: int = 9
    """number of measurements per side"""
    output: Path | None = None
    """JSON output file"""


def simulation(robot: str, arguments: Arguments, knobs: tuple[str, ...]) -> tuple[Callable[[], Any], float]:
    """A function that simulates with new tasks and actions per call, and the number of operations in its program."""
    physics = simulator(robot, arguments.backend)
    system = physics.env.sys

    def episode(key):
        task_key, velocity_key, action_key = jax.random.split(key, 3)
        task = dynamics.sample_scales(
            task_key, system, arguments.backend, knobs, per_element=True, exponent_range=(-1.0, 1.0)
        )
        changes = dynamics.scaled(system, arguments.backend, task.scale)
        start = physics.init(changes, system.init_q, 0.1 * jax.random.normal(velocity_key, (system.qd_size(),)))

        def step(state, key):
            action = jax.random.uniform(key, (system.act_size(),), minval=-1, maxval=1)
            return physics.advance(changes, state, action), None

        return jax.lax.scan(step, start, jax.random.split(action_key, arguments.steps))[0].q.sum()

    def simulate(key):
        return jax.vmap(episode)(jax.random.split(key, arguments.batch)).sum()

    compiled, keys = jax.jit(simulate).lower(jax.random.key(0)).compile(), iter(range(10**9))
    cost = compiled.cost_analysis()
    return lambda: compiled(jax.random.key(next(keys))), float(cost["flops"] if cost else jnp.nan)


def compare(robot: str, arguments: Arguments) -> dict[str, Any]:
    (varied, varied_flops), (plain, plain_flops) = (simulation(robot, arguments, knobs) for knobs in (KNOBS[robot], ()))
    seconds = common.alternate(arguments.repeats, varied, plain)
    ratio = seconds[:, 0] / seconds[:, 1]
    taken = arguments.batch * arguments.steps
    return {
        "robot": robot,
        "knobs": KNOBS[robot],
        "wall_ratio": [float(v) for v in (np.median(ratio[:, 0]), ratio[:, 0].min(), ratio[:, 0].max())],
        "cpu_ratio": [float(v) for v in (np.median(ratio[:, 1]), ratio[:, 1].min(), ratio[:, 1].max())],
        "operations_ratio": varied_flops / plain_flops,
        "steps_per_second": float(taken / np.median(seconds[:, 0, 0])),
    }


def main(arguments: Arguments) -> None:
    for robot in arguments.robots:
        if robot not in KNOBS:
            raise SystemExit(f"error: unknown robot {robot!r}: choose from {', '.join(KNOBS)}")
    machine = common.machine()
    sizes = f"{arguments.backend}, {arguments.batch} environments × {arguments.steps} steps"
    print(f"{sizes}; {machine}; {date.today()}; medians (and ranges) of {arguments.repeats}")
    results: dict[str, Any] = {"machine": machine, "date": str(date.today()), "sizes": sizes, "robots": []}
    for robot in arguments.robots:
        figures = compare(robot, arguments)
        results["robots"].append(figures)
        (wall, *walls), (cpu, *cpus) = figures["wall_ratio"], figures["cpu_ratio"]
        print(
            f"{robot:<12} a model each / one for all: wall {wall:.2f} ({walls[0]:.2f} to {walls[1]:.2f}), "
            f"CPU {cpu:.2f} ({cpus[0]:.2f} to {cpus[1]:.2f}), operations {figures['operations_ratio']:.3f}; "
            f"{figures['steps_per_second']:,.0f} steps/s",
            flush=True,
        )
    if arguments.output:
        common.write(results, arguments.output)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
