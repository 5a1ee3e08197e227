"""Results of a sweep, read from the run folders of its members, as a table and as `results.csv`."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from metarl_jax.runs.config import TrainConfig, folded, inner_rates, usual_steps
from metarl_jax.runs.logging.progress import quantity
from metarl_jax.runs.storage import files, json_text
from metarl_jax.runs.sweeps.plans import Options, Plan


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.error:.2f}"


class Result(NamedTuple):
    """Result of one member."""

    name: str
    """name of its folder"""
    options: Options
    status: str
    """finished, failed, stopped or not started"""
    iterations: int
    """number of meta-updates in its metrics.csv"""
    before: Estimate | None
    """return before adaptation; None if the member is not finished, also for the next two fields"""
    after: Estimate | None
    """return after the L inner steps of training"""
    gain: Estimate | None
    """gain of the L steps, paired by task"""
    environment_steps: int
    """environment steps of the training, all seeds"""
    minutes: float
    """duration of the training"""
    error: str = ""
    """last output line of a failed member"""


def report_path(folder: Path, config: TrainConfig) -> Path:
    """Path of the evaluation at the end of a run."""
    split = config.evaluation.eval_split
    return folder / ("evaluation.json" if split == "test" else f"evaluation-{split}.json")


def report(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The evaluation at the end of a run; None if it is missing, has fewer iterations than configured, or is another.

    `experiments/evaluate.py` may have replaced it by one with other settings, which no table should set beside those of
    other members.
    """
    try:
        content = json_text.loads(files.read(report_path(folder, config)))
        _estimates(content)  # raises if these numbers are missing: the run has not finished
        own = _is_own(content, config)
        return content if own and content["iteration"] >= config.iterations else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _is_own(content: Mapping[str, Any], config: TrainConfig) -> bool:
    """Whether an evaluation has the settings of the run; of what it does not tell nothing is known to differ."""
    trained, chosen = content["adaptation_steps_in_training"], config.evaluation
    stages_per_step = content.get("stages_in_training", trained + 1) // (trained + 1)
    steps = len(content["rows"]["adapted"]["steps"]) // stages_per_step - 1
    expected = {"num_tasks": chosen.eval_tasks, "seed": chosen.eval_seed, "deterministic": False}
    usual = usual_steps(trained, content["episodes_per_step"]) if "episodes_per_step" in content else steps
    rates = inner_rates(folded(config), steps)
    found = content.get("inner_lr", rates)
    return (
        all(content.get(name, value) == value for name, value in expected.items())
        and steps == (usual if chosen.eval_steps is None else chosen.eval_steps)
        and len(found) == len(rates)
        and np.allclose(found, rates, rtol=1e-5, atol=0)  # another device may round a schedule in another way
    )


def _estimates(content: dict[str, Any]) -> tuple[Estimate, Estimate, Estimate]:
    """Return before and after adaptation, and gain, with standard errors over seeds, or over tasks for a single seed.

    Tasks are the same for all seeds, so a standard error over seeds and tasks together would be too small.
    """
    rows = [seed_report["rows"]["adapted"] for seed_report in content.get("per_seed", ())]
    rows = rows if len(rows) > 1 else [content["rows"]["adapted"]]
    stages = content.get("stages_in_training", content["adaptation_steps_in_training"] + 1)
    step = min(stages - 1, rows[0]["steps"][-1])

    def estimate(mean: str, error: str, step: int) -> Estimate:
        values = np.array([row[mean][step] for row in rows], float)
        if len(values) == 1:
            return Estimate(float(values[0]), float(rows[0][error][step]))
        return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))

    after = estimate("mean", "standard_error", step)
    return estimate("mean", "standard_error", 0), after, estimate("gain_mean", "gain_standard_error", step)


def _column(path: Path, name: str) -> np.ndarray:
    """A column of a CSV file, which may be missing or have an incomplete last line."""
    try:
        with files.opened(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):  # missing or not a table, which the member itself reports
        return np.zeros(0)
    try:
        return np.array([float(row[name]) for row in rows])
    except (KeyError, TypeError, ValueError):
        return np.array([float(row[name]) for row in rows[:-1] if row.get(name)])


def collect(
    plan: Plan, folder: Path, configs: Mapping[str, TrainConfig], failures: Mapping[str, str] | None = None
) -> list[Result]:
    """Results of all members, sorted by return after adaptation, unfinished members last.

    Args:
        plan: plan of the sweep.
        folder: folder of the sweep.
        configs: configurations of the members by name.
        failures: last output line of each failed member.
    """
    failures = failures or {}
    results = []
    for name, options in plan.members.items():
        run = folder / name
        evaluation = report(run, configs[name])
        unfinished = "stopped" if (run / "config.json").is_file() else "not started"
        iterations = _column(run / "metrics.csv", "iteration")
        results.append(
            Result(
                name,
                options,
                "finished" if evaluation else "failed" if name in failures else unfinished,
                int(iterations[-1]) + 1 if len(iterations) else 0,
                *(_estimates(evaluation) if evaluation else (None, None, None)),
                environment_steps=int(_column(run / "metrics.csv", "environment_steps").sum()),
                minutes=float(_column(run / "timing.csv", "seconds").sum() / 60),
                error="" if evaluation else failures.get(name, ""),
            )
        )
    return sorted(results, key=lambda result: -result.after.mean if result.after else np.inf)


def write(results: list[Result], path: Path, seeds: int) -> None:
    """Writes results.csv atomically, one row per member."""
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
    """The results as a table for the terminal."""
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
