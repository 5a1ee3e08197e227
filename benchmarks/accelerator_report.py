"""Plots the results of `benchmarks/accelerator.py`: throughput by batch, cost of seeds and tasks, a training run.

python benchmarks/accelerator_report.py                 # benchmarks/results/accelerator-*.jsonl → accelerator.png
"""

import csv
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tyro

RESULTS = Path(__file__).resolve().parent / "results"
TRAINING = RESULTS.parent.parent / "experiments" / "results" / "cheetah-dir-h100"
COLORS = {"cheetah, spring": "#1f5fa8", "ant, spring": "#c8553d", "cheetah, mjx": "#6b6b6b"}


@dataclasses.dataclass(frozen=True)
class Arguments:
    output: Path = RESULTS / "accelerator.png"
    """output file of the plot"""


def lines(folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """All lines of all runs, with the run's number; the first line of a file describes the run."""
    for path in sorted(folder.glob("accelerator-*.jsonl")):
        head, *rest = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        yield from ({"run": head["run"], "card": head["card"], "date": head["date"]} | line for line in rest)


def timings(folder: Path = RESULTS) -> dict[tuple[int, str], dict[str, Any]]:
    """Run and program → its figures."""
    measured = {}
    for line in lines(folder):
        if line["what"] == "ran" and "seconds" in line:
            measured[line["run"], line["program"]] = line
    return measured


def by_batch(measured: dict[tuple[int, str], dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Robot and physics → (parallel environments, environment steps per second), for simulation only."""
    curves: dict[str, dict[int, float]] = {}
    for (_, program), figures in measured.items():
        found = re.fullmatch(r"bare (\w+) (\w+) (\d+)", program)
        if found:  # use the first run: hosts, which launch the kernels, differ between runs
            curve = curves.setdefault(f"{found[1]}, {found[2]}", {})
            curve.setdefault(int(found[3]), figures["steps_per_second"])
    return {name: sorted(curve.items()) for name, curve in curves.items()}


def draw(path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measured = timings()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    for name, points in by_batch(measured).items():
        batch, speed = zip(*points, strict=True)
        left.loglog(batch, speed, "o-", color=COLORS[name], label=name)
    left.set(xlabel="environments side by side", ylabel="environment steps per second", title="bare simulation")
    left.legend(frameon=False)

    one = measured[2, "promp cheetah"]["seconds"]
    bars = {"1 seed": one, "8 seeds": measured[2, "promp cheetah, 8 seeds"]["seconds"]}
    bars |= {"32 seeds": measured[2, "promp cheetah, 32 seeds"]["seconds"]}
    bars |= {"1 seed,\n400 tasks": measured[2, "promp cheetah, 400 tasks"]["seconds"]}
    middle.bar(list(bars), list(bars.values()), color=COLORS["cheetah, spring"])
    for place, seconds in enumerate(bars.values()):
        middle.text(place, seconds, f"{seconds / one:.2f} ×", ha="center", va="bottom")
    middle.set(
        ylabel="seconds", title="a meta-iteration of ProMP on cheetah-dir\n(40 tasks × 20 episodes × 2 × 100 steps)"
    )

    with (TRAINING / "timing.csv").open() as file:
        clock = [(int(row["iteration"]), float(row["seconds"])) for row in csv.DictReader(file)]
    with (TRAINING / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    ends, seconds = np.array([end for end, _ in clock]), np.cumsum([spent for _, spent in clock])
    at = np.interp(np.arange(1, len(rows) + 1), ends, seconds)
    for stage, color in ((0, COLORS["cheetah, mjx"]), (1, COLORS["cheetah, spring"])):
        after = "after one inner step" if stage else "before adaptation"
        right.plot(at, [float(row[f"return_{stage}"]) for row in rows], color=color, label=after)
    right.axvspan(0, seconds[0], color="#eeeeee", label="compilation")
    right.set(
        xlabel="seconds of the training loop", ylabel="return", title="ProMP on cheetah-dir, 44 M steps", xlim=(0, None)
    )
    right.legend(frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    head = next(iter(lines()))
    figure.suptitle(f"{head['card']}, {head['date']}", x=0.01, ha="left")
    figure.savefig(path, dpi=110)


def main(arguments: Arguments) -> None:
    draw(arguments.output)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
