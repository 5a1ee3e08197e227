"""What the members of a sweep have reached, read from their run folders: a table, `results.csv` and a picture."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from metarl_jax.runs import files, json_text
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.progress import quantity
from metarl_jax.runs.sweeps import Options, Plan


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.error:.2f}"


class Result(NamedTuple):
    """What one member has reached."""

    name: str
    """of its folder"""
    options: Options
    status: str
    """finished, failed, stopped or not started"""
    iterations: int
    """meta-updates that its metrics.csv holds"""
    before: Estimate | None
    """return before adaptation; None where the member is not finished, as in the next two"""
    after: Estimate | None
    """return after the L inner steps of training"""
    gain: Estimate | None
    """of the L steps, paired by task"""
    environment_steps: int
    """of training, all seeds"""
    minutes: float
    """of training"""
    error: str = ""
    """the last line of a member that failed"""


def report_path(folder: Path, config: TrainConfig) -> Path:
    """Where a run writes the evaluation at its end."""
    split = config.evaluation.eval_split
    return folder / ("evaluation.json" if split == "test" else f"evaluation-{split}.json")


def report(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The evaluation at the end of a run; None before it is there, or where it is of fewer iterations than wanted."""
    try:
        found = json_text.loads(files.read(report_path(folder, config)))
        _estimates(found)  # who has no such numbers has not finished
        return found if found["iteration"] >= config.iterations else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _estimates(found: dict[str, Any]) -> tuple[Estimate, Estimate, Estimate]:
    """Return before and after adaptation, and the gain: over seeds where there are several, else over tasks.

    Tasks are the same for all seeds, so a standard error over seeds and tasks together would be too small.
    """
    rows = [one["rows"]["adapted"] for one in found.get("per_seed", ())]
    rows = rows if len(rows) > 1 else [found["rows"]["adapted"]]
    stages = found.get("stages_in_training", found["adaptation_steps_in_training"] + 1)
    step = min(stages - 1, rows[0]["steps"][-1])

    def estimate(mean: str, error: str, step: int) -> Estimate:
        values = np.array([row[mean][step] for row in rows], float)
        if len(values) == 1:
            return Estimate(float(values[0]), float(rows[0][error][step]))
        return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))

    after = estimate("mean", "standard_error", step)
    return estimate("mean", "standard_error", 0), after, estimate("gain_mean", "gain_standard_error", step)


def _column(path: Path, name: str) -> np.ndarray:
    """A column of a table that may be missing, or cut off in its last line."""
    try:
        with files.opened(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):  # not there, or no table, which the member itself tells
        return np.zeros(0)
    try:
        return np.array([float(row[name]) for row in rows])
    except (KeyError, TypeError, ValueError):
        return np.array([float(row[name]) for row in rows[:-1] if row.get(name)])


def collect(
    plan: Plan, folder: Path, configs: Mapping[str, TrainConfig], failures: Mapping[str, str] | None = None
) -> list[Result]:
    """What every member has reached, the best return after adaptation first and those without one last.

    Args:
        plan: of the sweep.
        folder: of the sweep.
        configs: of the members, by name.
        failures: the last line of each member that failed.
    """
    failures = failures or {}
    results = []
    for name, options in plan.members.items():
        run = folder / name
        found = report(run, configs[name])
        begun = "stopped" if (run / "config.json").is_file() else "not started"
        iterations = _column(run / "metrics.csv", "iteration")
        results.append(
            Result(
                name,
                options,
                "finished" if found else "failed" if name in failures else begun,
                int(iterations[-1]) + 1 if len(iterations) else 0,
                *(_estimates(found) if found else (None, None, None)),
                environment_steps=int(_column(run / "metrics.csv", "environment_steps").sum()),
                minutes=float(_column(run / "timing.csv", "seconds").sum() / 60),
                error="" if found else failures.get(name, ""),
            )
        )
    return sorted(results, key=lambda result: -result.after.mean if result.after else np.inf)


def write(results: list[Result], path: Path, seeds: int) -> None:
    """Writes results.csv, one row per member, whole or not at all."""
    with files.whole(path) as file:
        table = csv.writer(file, lineterminator="\n")
        numbers = [f"{name}_{part}" for name in ("before", "after", "gain") for part in ("mean", "standard_error")]
        rest = ["environment_steps", "minutes", "status", "folder", "error"]
        table.writerow([*results[0].options, "seeds", "iterations", *numbers, *rest])
        for result in results:
            estimates = [estimate or ("", "") for estimate in (result.before, result.after, result.gain)]
            table.writerow(
                [
                    *(*result.options.values(), seeds, result.iterations),
                    *(value for estimate in estimates for value in estimate),
                    *(result.environment_steps, f"{result.minutes:.3f}", result.status, result.name, result.error),
                ]
            )


def table(results: list[Result], title: str, seeds: int) -> Table:
    """The results for a terminal."""
    over = f"{seeds} seeds' means" if seeds > 1 else "held-out tasks"
    shown = Table(
        title=Text(f"{title}: return on held-out tasks, best after adaptation first", "bold"),
        caption=f"s.e.: standard error over {over}; gain: after over before adaptation; steps: of the environment, "
        "minutes: of training",
        caption_justify="left",
        title_justify="left",
    )
    for option in results[0].options:
        shown.add_column(option, justify="right")
    for column in ("before ± s.e.", "after ± s.e.", "gain ± s.e.", "steps", "minutes", "status"):
        shown.add_column(column, justify="left" if column == "status" else "right")
    for result in results:
        gain = f"{result.gain.mean:+.2f} ± {result.gain.error:.2f}" if result.gain else ""
        status = result.status + (f" at iteration {result.iterations}" if result.status == "stopped" else "")
        shown.add_row(
            *map(Text, result.options.values()),
            *("" if estimate is None else str(estimate) for estimate in (result.before, result.after)),
            gain,
            quantity(result.environment_steps) if result.environment_steps else "",
            f"{result.minutes:.1f}" if result.minutes else "",
            Text(status + (f": {result.error}" if result.error else "")),
        )
    return shown
