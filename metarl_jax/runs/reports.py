"""An evaluation as a file, a table and a picture."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from metarl_jax.evaluation import Row


def to_report(
    rows: dict[str, Row],
    *,
    task: str,
    algorithm: str,
    split: str,
    episodes_per_step: int,
    inner_lr: Sequence[float],
    trained_steps: int,
    iteration: int,
    seed: int,
) -> dict[str, Any]:
    """The content of evaluation.json.

    Args:
        rows: of `metarl_jax.evaluation.evaluate`.
        task: the family.
        algorithm: its name.
        split: whose tasks.
        episodes_per_step: N, episodes that each step learns from and each return is the mean of.
        inner_lr: rate of each of the L' steps.
        trained_steps: L of training.
        iteration: meta-updates that the evaluated θ has behind it.
        seed: of the held-out tasks.
    """
    per_task = next(iter(rows.values())).per_task
    not_per_task = [field for field in Row._fields if field != "per_task"]
    return {
        "task": task,
        "algorithm": algorithm,
        "split": split,
        "num_tasks": len(per_task),
        "episodes_per_step": episodes_per_step,
        "adaptation_steps_in_training": trained_steps,
        "inner_lr": list(inner_lr),
        "iteration": iteration,
        "seed": seed,
        "rows": {
            name: {"steps": list(range(per_task.shape[1]))}
            | {field: getattr(row, field).tolist() for field in not_per_task}
            # Of a task left out, null is the step without a return. Any other NaN is in the statistics as well, so that
            # `write_report` refuses it.
            | {"per_task": [[None if np.isnan(mean) else mean for mean in means] for means in row.per_task.tolist()]}
            for name, row in rows.items()
        },
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    """Writes evaluation.json, whole or not at all.

    Raises:
        ValueError: a number is not finite, so that the file would be no JSON.
    """
    try:
        text = json.dumps(report, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"the evaluation holds a return that is NaN or infinite, so {path} was not written") from error
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def table(report: dict[str, Any]) -> Table:
    """Mean, standard error, median and interquartile mean per step, and the gain over step 0."""
    caption = "s.e.: standard error over tasks; gain: over step 0 of the same task; IQM: interquartile mean"
    names = {"adapted": "meta-trained", "random_init": "random init"}
    for name, row in report["rows"].items():
        if diverged := sum(row["diverged_episodes"]):
            caption += (
                f"\n{names.get(name, name)}: the simulation diverged in {diverged} episodes, which are left out; "
                f"{row['tasks_left_out']} tasks with no other episode at some step are left out whole"
            )
    result = Table(
        title=f"{report['task']}, {report['algorithm']}: return on {report['num_tasks']} {report['split']} tasks "
        f"({report['episodes_per_step']} episodes per step and task)",
        caption=caption,
        caption_justify="left",
        title_justify="left",
        title_style="bold",
    )
    result.add_column("parameters")
    for column in ("inner steps", "mean ± s.e.", "median", "IQM", "gain ± s.e."):
        result.add_column(column, justify="right")
    for name, row in report["rows"].items():
        for step in row["steps"]:
            gain = f"{row['gain_mean'][step]:+.2f} ± {row['gain_standard_error'][step]:.2f}" if step else ""
            result.add_row(
                names.get(name, name) if step == 0 else "",
                str(step),
                f"{row['mean'][step]:.2f} ± {row['standard_error'][step]:.2f}",
                f"{row['median'][step]:.2f}",
                f"{row['iqm'][step]:.2f}",
                gain,
                end_section=step == row["steps"][-1],
            )
    return result
