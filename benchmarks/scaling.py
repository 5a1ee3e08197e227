"""How a meta-iteration scales: time with seeds and with devices, memory with tasks, episodes, horizon and inner steps.

python benchmarks/scaling.py
python benchmarks/scaling.py --output benchmarks/results/scaling.json      # and a picture beside it, scaling.png

Measurements of seeds alternate in one process, those of devices in another, with the CPU split into 8 devices. These
share the machine's cores, so the time shows the cost of sharding, not its gain. Memory is XLA's plan for the compiled
update, without running it.
"""

import dataclasses
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import common

FORCED = 8


@dataclasses.dataclass(frozen=True)
class Arguments:
    algorithm: str = "promp"
    """algorithm to measure"""
    tasks: int = 16
    """B"""
    episodes: int = 10
    """N"""
    horizon: int = 50
    """T"""
    seeds: tuple[int, ...] = (1, 2, 4, 8, 16)
    """numbers of seeds in one program"""
    devices: tuple[int, ...] = (1, 2, 4, 8)
    """numbers of devices that share the tasks"""
    factors: tuple[int, ...] = (1, 2, 4, 8)
    """factors on each size for the memory; the inner steps start from one"""
    rounds: int = 3
    """number of measurements, after one that compiles"""
    output: Path | None = None
    """JSON output file"""
    only_devices: bool = False
    """only print the times of devices as JSON; used for the second process"""


def build(arguments: Arguments, **changes: Any):
    """The algorithm on point-nav at these sizes."""
    import metarl_jax as mrl

    sizes = {name: getattr(arguments, name) for name in ("tasks", "episodes", "horizon")} | changes
    env = mrl.envs.make("point-nav", horizon=sizes.pop("horizon"))
    return mrl.algorithms.make(arguments.algorithm, env, **sizes)


def alternating(programs: dict[int, Any], rounds: int) -> dict[int, list[float]]:
    """Seconds of each program's calls, one per round, without the first round, which compiles."""
    wall = common.alternate(rounds, *programs.values())[:, :, 0]
    return dict(zip(programs, wall.T.tolist(), strict=True))


def time_seeds(arguments: Arguments) -> dict[int, list[float]]:
    """Seconds of one update of all seeds, by their number; as in training, sequential on a CPU, else by vmap."""
    import jax

    algorithm = build(arguments)

    def in_turn(keys, states):
        return jax.lax.map(lambda of_seed: algorithm.update(*of_seed), (keys, states))

    init = jax.jit(jax.vmap(algorithm.init))
    update = jax.jit(in_turn if jax.default_backend() == "cpu" else jax.vmap(algorithm.update))

    def program(seeds):
        keys = jax.random.split(jax.random.key(0), seeds)
        state = init(keys)
        return lambda: update(keys, state)

    return alternating({seeds: program(seeds) for seeds in arguments.seeds}, arguments.rounds)


def time_devices(arguments: Arguments) -> dict[int, list[float]]:
    """Seconds of one update, by the number of devices that share its tasks."""
    import jax

    import metarl_jax as mrl

    algorithm = build(arguments)
    state = jax.jit(algorithm.init)(jax.random.key(0))

    def program(devices):
        mesh = mrl.devices.mesh(devices, tasks=arguments.tasks)
        update = jax.jit(algorithm.update)

        def run():
            with jax.set_mesh(mesh):
                return update(jax.random.key(1), state)

        return run

    return alternating({devices: program(devices) for devices in arguments.devices}, arguments.rounds)


def planned_mebibytes(arguments: Arguments, **changes: Any) -> float:
    """Temporary memory of one compiled update."""
    import jax

    algorithm = build(arguments, **changes)
    key = jax.random.key(0)
    compiled = jax.jit(algorithm.update).lower(key, jax.eval_shape(algorithm.init, key)).compile()
    return common.planned_bytes(compiled) / 2**20


def memory(arguments: Arguments) -> dict[str, dict[int, float]]:
    """MiB by varied size and its value."""
    grown = {name: getattr(arguments, name) for name in ("tasks", "episodes", "horizon")} | {"adaptation_steps": 1}
    return {
        name: {factor * start: planned_mebibytes(arguments, **{name: factor * start}) for factor in arguments.factors}
        for name, start in grown.items()
    }


def in_a_process_with_devices(arguments: Arguments) -> dict[int, list[float]]:
    """`time_devices` in a process with several CPU devices."""
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={max(FORCED, *arguments.devices)}"
    )
    options = ["--only-devices"]
    for name in ("algorithm", "tasks", "episodes", "horizon", "rounds", "devices"):
        value = getattr(arguments, name)
        options += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    done = subprocess.run(
        [sys.executable, __file__, *options],
        env=os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {int(name): values for name, values in json.loads(done.stdout.splitlines()[-1]).items()}


def picture(result: dict[str, Any], path: Path) -> None:
    """Three panels: seeds, devices, memory."""
    from matplotlib.figure import Figure

    from metarl_jax.plot import BLUE, GREY, ORANGE, quiet_axes

    figure = Figure(figsize=(12.8, 4.0), dpi=150, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, name, title in ((left, "seeds", "seeds in one program"), (middle, "devices", "devices cut from one CPU")):
        numbers, seconds = list(result[name]), [np.asarray(values) * 1e3 for values in result[name].values()]
        median = [float(np.median(values)) for values in seconds]
        spread = [[m - values.min() for m, values in zip(median, seconds, strict=True)]]
        spread += [[values.max() - m for m, values in zip(median, seconds, strict=True)]]
        axes.errorbar(numbers, median, spread, color=BLUE, marker="o", capsize=3, label="measured (median, range)")
        if name == "seeds":
            axes.plot(numbers, [median[0] * n / numbers[0] for n in numbers], "--", color=GREY, label="one by one")
        axes.set(xscale="log", yscale="log", xlabel=title, ylabel="ms per update", xticks=numbers)
        axes.set_xticks(numbers, map(str, numbers))
        axes.minorticks_off()
        axes.set_ylim(min(median) / 3, max(median) * 3)
        axes.legend(frameon=False, fontsize=9)
    labels = {"tasks": "tasks B", "episodes": "episodes N", "horizon": "steps T", "adaptation_steps": "inner steps L"}
    styles = zip(labels, (BLUE, ORANGE, GREY, "black"), ("o", "s", "^", "d"), strict=True)
    for name, color, marker in styles:
        sizes = result["memory_MiB"][name]
        start = min(sizes)
        label = f"{labels[name]} (from {start})"
        right.plot([size / start for size in sizes], list(sizes.values()), color=color, marker=marker, label=label)
    right.set(xscale="log", yscale="log", xlabel="size, relative to its start", ylabel="MiB planned for an update")
    right.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    ticks = [round(value) for value in result["memory_MiB"]["tasks"].values()]
    right.set_yticks(ticks, map(str, ticks))
    right.minorticks_off()
    right.legend(frameon=False, fontsize=9)
    for axes in (left, middle, right):
        quiet_axes(axes)
    figure.savefig(path)


def main(arguments: Arguments) -> None:
    if arguments.only_devices:
        print(json.dumps(time_devices(arguments)))
        return

    machine = common.machine()
    sizes = f"{arguments.tasks} tasks × {arguments.episodes} episodes × {arguments.horizon} steps, one inner step"
    print(f"{arguments.algorithm} on point-nav, {sizes}; {machine}; {date.today()}")
    result: dict[str, Any] = {"seeds": time_seeds(arguments)}
    for name in ("seeds", "devices"):
        if name == "devices":
            result[name] = in_a_process_with_devices(arguments)
        one = np.median(next(iter(result[name].values())))
        for number, seconds in result[name].items():
            median, low, high = np.median(seconds), min(seconds), max(seconds)
            each = f", {median / number / one:.2f} of one run's for each" if name == "seeds" else ""
            print(
                f"  {number:>2} {name:<8}{median * 1e3:9.1f} ms per update ({low * 1e3:.1f} to {high * 1e3:.1f}), "
                f"{median / one:.2f} × the first{each}"
            )
    result["memory_MiB"] = memory(arguments)
    for name, sizes_of in result["memory_MiB"].items():
        print(f"  {name:<17}" + "  ".join(f"{size}: {value:.1f} MiB" for size, value in sizes_of.items()))
    if arguments.output:
        described = {
            name: str(value) for name, value in vars(arguments).items() if name not in ("output", "only_devices")
        }
        about = {"machine": machine, "date": str(date.today()), "arguments": described}
        common.write(about | result, arguments.output)
        picture(result, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
