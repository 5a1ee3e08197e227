"""Evaluations as a JSON file and as a table."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from metarl_jax.evaluation import Row, across_seeds
from metarl_jax.runs.storage import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What was evaluated, and how."""

    task: str
    """name of the environment"""
    algorithm: str
    """name of the algorithm"""
    split: str
    """split of the tasks"""
    episodes_per_step: int
    """N, episodes per stage"""
    stage_steps: int | None = None
    """budget of environment steps per stage, which then has at most N episodes; None: no budget"""
    inner_lr: Sequence[float]
    """rate of each of the L' steps"""
    inner_lr_beyond: str | None
    """rule for the rates beyond the steps of training; None if the algorithm has no such rule"""
    burn_in: int
    """number of stages that `counted_mean` excludes"""
    trained_steps: int
    """L of training"""
    trained_stages: int
    """S of training"""
    iteration: int
    """number of meta-updates of the evaluated θ"""
    seed: int
    """seed of the held-out tasks"""
    deterministic: bool = False
    """whether returns are those of modes, see `metarl_jax.evaluation.evaluate`"""


def to_report(of_seeds: dict[int, dict[str, Row]], setting: Setting) -> dict[str, Any]:
    """The content of evaluation.json.

    With one seed, `rows` are its rows, with standard errors over tasks. With several, the trained rows are those of
    `metarl_jax.evaluation.across_seeds`, with standard errors over seeds, and `per_seed` holds the rows of each seed.

    Args:
        of_seeds: training seed → result of `metarl_jax.evaluation.evaluate`.
        setting: what was evaluated, and how.
    """
    first = next(iter(of_seeds.values()))
    # Rows of untrained parameters are equal for all seeds.
    several = len(of_seeds) > 1
    rows = first | {"adapted": across_seeds([rows["adapted"] for rows in of_seeds.values()])} if several else first
    per_seed = [{"seed": seed, "rows": {"adapted": _row(rows["adapted"])}} for seed, rows in of_seeds.items()]
    return {
        "task": setting.task,
        "algorithm": setting.algorithm,
        "split": setting.split,
        "num_tasks": len(first["adapted"].per_task),
        "episodes_per_step": setting.episodes_per_step,
        "stage_steps": setting.stage_steps,
        "adaptation_steps_in_training": setting.trained_steps,
        "stages_in_training": setting.trained_stages,
        "inner_lr": list(setting.inner_lr),
        "inner_lr_beyond": setting.inner_lr_beyond,
        "burn_in": setting.burn_in,
        "iteration": setting.iteration,
        "seed": setting.seed,
        "deterministic": setting.deterministic,
        "training_seeds": list(of_seeds),
        "rows": {name: _row(row) for name, row in rows.items()},
    } | ({"per_seed": per_seed} if several else {})


def _row(row: Row) -> dict[str, Any]:
    lists = {field: getattr(row, field).tolist() for field in Row._fields if field != "per_task"}
    # For an excluded task, null marks a stage without a return. Any other NaN is also in the statistics, so
    # `write_report` rejects it.
    per_task = [[None if np.isnan(mean) else mean for mean in means] for means in row.per_task.tolist()]
    return {"steps": list(range(row.per_task.shape[1]))} | lists | {"per_task": per_task}


def write_report(report: dict[str, Any], path: Path) -> None:
    """Writes evaluation.json atomically.

    Raises:
        ValueError: a number is not finite, which JSON does not support.
    """
    try:
        text = json.dumps(report, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"the evaluation holds a return that is NaN or infinite, so {path} was not written") from error
    files.write(path, text + "\n")


def stage_in_words(episodes: int, steps: int | None) -> str:
    """Description of a stage's size: "20 episodes", or "4000 steps, at most 100 episodes"."""
    several = f"{episodes} episode{'s'[: episodes > 1]}"
    return several if steps is None else f"{steps} steps, at most {several}"


def rates_in_words(rates: Sequence[float]) -> str:
    """Description of the inner rates; empty if there are none."""
    if not rates:
        return ""
    shown = ", ".join(f"{rate:.3g}" for rate in rates[:5])
    return f"inner rates {shown}" + (f", …, {rates[-1]:.3g}" if len(rates) > 5 else "")


def few(steps: Sequence[int], most: int = 12) -> list[int]:
    """All steps, or if there are more than `most`: 0, the powers of the smallest possible base, and the last."""
    steps, last, base = list(steps), len(steps) - 1, 2
    while len(steps) > most:
        powers = itertools.takewhile(lambda power: power < last, (base**n for n in itertools.count()))
        steps, base = [0, *powers, last], base + 1
    return steps


def table(report: dict[str, Any]) -> Table:
    """Mean, standard error, median, interquartile mean, and gain over stage 0, for a few stages."""
    seeds = len(report["training_seeds"])
    over = "tasks" if seeds == 1 else f"{seeds} seeds (of random init over tasks)"
    caption = f"s.e.: standard error over {over}; gain: over stage 0 of the same task; IQM: interquartile mean"
    if rates := rates_in_words(report["inner_lr"]):
        caption += f"\n{rates}"
    names = {"adapted": "meta-trained", "random_init": "random init"}
    for name, row in report["rows"].items():
        if report["burn_in"] < row["steps"][-1]:  # for a single stage, the table has it
            mean = f"{row['counted_mean']:.2f} ± {row['counted_standard_error']:.2f}"
            counted = f"{report['burn_in']} to {row['steps'][-1]}"
            caption += f"\n{names.get(name, name)}: {mean} per episode of the stages {counted}, which count in J"
        if diverged := sum(row["diverged_episodes"]):
            caption += (
                f"\n{names.get(name, name)}: the simulation diverged in {diverged} episodes, which are left out; "
                f"{row['tasks_left_out']} tasks with no other episode at some step are left out whole"
            )
    result = Table(
        title=Text(
            f"{report['task']}, {report['algorithm']}: return on {report['num_tasks']} {report['split']} tasks "
            f"({stage_in_words(report['episodes_per_step'], report['stage_steps'])} per stage and task"
            + (", measured by modes)" if report.get("deterministic") else ")"),
            "bold",
        ),
        caption=caption,
        caption_justify="left",
        title_justify="left",
    )
    result.add_column("parameters")
    for column in ("stage", "episodes before", "mean ± s.e.", "median", "IQM", "gain ± s.e."):
        result.add_column(column, justify="right")
    for name, row in report["rows"].items():
        shown = few(row["steps"])
        for step in shown:
            gain = f"{row['gain_mean'][step]:+.2f} ± {row['gain_standard_error'][step]:.2f}" if step else ""
            result.add_row(
                names.get(name, name) if step == 0 else "",
                str(step),
                f"{row['episodes'][step]:.0f}",
                f"{row['mean'][step]:.2f} ± {row['standard_error'][step]:.2f}",
                f"{row['median'][step]:.2f}",
                f"{row['iqm'][step]:.2f}",
                gain,
                end_section=step == shown[-1],
            )
    return result
