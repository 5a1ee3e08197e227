"""Plots of a run. Figures are created without pyplot, so there is no global state and no display is needed."""

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl_jax import plot
from metarl_jax.evaluation import iqm_interval
from metarl_jax.plot import GREY, LINES, quiet_axes
from metarl_jax.runs.evaluation.comparisons import ORACLE
from metarl_jax.runs.storage import files

# Silences Matplotlib's message that it builds a font cache.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

styled = style.context("default")
"""Decorator of all plotting functions: plots look the same on all machines. It also ignores a ``matplotlibrc`` in the
working folder, which could be untrusted and could run LaTeX."""


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    return figure, figure.add_subplot()


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The columns of a metrics.csv as float64 arrays [iterations]."""
    with files.opened(path, newline="") as file:
        reader = csv.reader(file)
        header = next(reader)
        values = np.array([[float(cell) for cell in row] for row in reader]).reshape(-1, len(header))
    return dict(zip(header, values.T, strict=True))


STAGE = re.compile(r"return_[0-9]+")
"""names of the columns of metrics.csv that hold the return of a stage"""


@styled
def learning_curve(metrics: dict[str, np.ndarray], path: Path, *, title: str, horizon: int, unit: str) -> None:
    """`metarl_jax.plot.learning_curve` of a run, as a file.

    Args:
        metrics: columns of metrics.csv, including return_0 … return_L.
        path: path of the plot.
        title: task and algorithm.
        horizon: T, for the axis label.
        unit: name of the step between two stages: "inner step", or "episode" for recurrent policies.
    """
    stages = sorted((name for name in metrics if STAGE.fullmatch(name)), key=lambda name: int(name[7:]))
    seeds = len(np.unique(metrics["seed"]))
    columns = {name: values.reshape(-1, seeds) for name, values in metrics.items()}
    drawn = {"iteration": columns["iteration"][:, 0], "return": np.stack([columns[name] for name in stages], -1)}
    drawn |= {name: columns[name] for name in ("environment_steps",) if name in columns}
    figure, axes = _axes()
    plot.learning_curve(drawn, axes, title=title, horizon=horizon, unit=unit)
    files.save(figure, path)


def _panels(titles: Sequence[str], x_label: str, y_label: str) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel per title, three in a line at most."""
    lines = -(-len(titles) // 3)
    columns = -(-len(titles) // lines)
    figure = Figure(figsize=(4.6 * columns, 3.9 * lines + 0.5), dpi=150, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    panels = dict(zip(titles, grid.flat, strict=False))
    for title, axes in panels.items():
        quiet_axes(axes)
        axes.set_title(title, loc="left", fontsize=11, parse_math=False)
        axes.set_xlabel(x_label)
    for axes in grid[:, 0]:
        axes.set_ylabel(y_label)
    for axes in grid.flat[len(titles) :]:
        axes.set_axis_off()
    return figure, panels


def _legend(figure: Figure, panels: dict[str, Axes]) -> None:
    """One legend below all panels, which need not have the same lines."""
    handles = {}
    for axes in panels.values():
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    columns = min(len(handles), 3 * len(panels))
    legend = figure.legend(
        handles.values(), handles, frameon=False, fontsize=9, loc="outside lower center", ncols=columns
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


@styled
def adaptation(
    rows: dict[str, dict[str, Any]], path: Path, *, title: str, horizon: int, trained_episodes: int, seeds: int = 1
) -> None:
    """`metarl_jax.plot.adaptation_curve` of a run, as a file.

    Args:
        rows: rows of evaluation.json.
        path: path of the plot.
        title: task, algorithm and number of tasks.
        horizon: T, for the axis label.
        trained_episodes: episodes before the last stage of a training trial; marked by a line if the curve goes beyond.
        seeds: number of training seeds.
    """
    figure, axes = _axes()
    plot.adaptation_curve(rows, axes, title=title, horizon=horizon, trained_episodes=trained_episodes, seeds=seeds)
    files.save(figure, path)


@styled
def curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plots return against episodes seen, one panel per family: IQM over seeds and tasks with a bootstrap interval.

    If a stage has several episodes, the curve is constant until φ changes. The oracle's line is its return in stage 0,
    since it observes the task.

    Args:
        rows: rows with `family`, `algorithm`, `episodes` [S] before each stage, and `per_task` [R, num_tasks, S].
        path: path of the plot.
    """
    families = list(dict.fromkeys(row["family"] for row in rows))
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    palette = (*LINES[:-1], "#35978f")  # grey is for the oracle
    colors = dict(zip([name for name in names if name != ORACLE], palette * len(names), strict=False))
    figure, panels = _panels(families, "episodes seen", "return of an episode, IQM")
    for family, axes in panels.items():
        last = 1
        for row in (row for row in rows if row["family"] == family):
            interval, name = iqm_interval(np.array(row["per_task"])), row["algorithm"]
            if name == ORACLE:
                axes.axhline(interval.estimate[0], color=GREY, linestyle="--", linewidth=1.2, label=name)
                continue
            episodes = row["episodes"]
            each = episodes[1] if len(episodes) > 1 else 1
            # A constant segment per stage, or a line through the stages if each is one episode.
            x = np.repeat([*episodes, episodes[-1] + each], 2)[1:-1] if each > 1 else np.array(episodes)
            estimate, low, high = (np.repeat(values, 2) if each > 1 else values for values in interval)
            axes.fill_between(x, low, high, color=colors[name], alpha=0.18, linewidth=0)
            axes.plot(x, estimate, color=colors[name], linewidth=1.6, label=name)
            last = max(last, int(x[-1]))
        # Linear from 0 to 1, to include 0.
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.set_xlim(0, last)
        axes.set_xticks(ticks := [tick for tick in (0, 1, 2, 5, 10, 20, 40, 80, 200, 500, 1000) if tick <= last])
        axes.set_xticklabels(map(str, ticks))
        axes.minorticks_off()
    _legend(figure, panels)
    figure.suptitle("band: 95 % stratified bootstrap interval over seeds", x=0.01, ha="left", fontsize=9)
    files.save(figure, path)


@styled
def profiles(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plots performance profiles: the fraction of seeds and tasks whose score over the trial exceeds a threshold.

    Args:
        rows: as in `curves`, with an oracle and an untrained row for each family; see
            `metarl_jax.runs.evaluation.adaptation`.
        path: path of the plot.
    """
    from metarl_jax.runs.evaluation import adaptation

    scales = adaptation.anchors(rows)
    names = [name for name in dict.fromkeys(row["algorithm"] for row in rows) if name != ORACLE]
    colors = dict(zip(names, (*LINES[:-1], "#35978f") * len(names), strict=False))
    score = "score over the trial: 0 untrained, 1 oracle"
    figure, panels = _panels(list(scales), score, "share of seeds and tasks above it")
    thresholds = np.linspace(-0.2, 1.1, 131)
    for family, scale in scales.items():
        axes = panels[family]
        for row in (row for row in rows if row["family"] == family and row["algorithm"] != ORACLE):
            share = adaptation.profile(adaptation.area(adaptation.normalized(row, scale)), thresholds)
            axes.plot(thresholds, share, color=colors[row["algorithm"]], linewidth=1.6, label=row["algorithm"])
    _legend(figure, panels)
    files.save(figure, path)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


@styled
def sweep(results: Sequence[tuple[dict[str, str], float, float]], path: Path, *, title: str, error: str) -> bool:
    """Plots return after adaptation against the numeric options of a sweep, ± one standard error.

    A grid has one panel, with the option with the most values on the x axis and one line per combination of the others.
    If these are too many, as in a random sweep, each option has one panel of points.

    Args:
        results: options, mean return and standard error of each finished member.
        path: path of the plot.
        title: title of the plot.
        error: unit of the standard error, such as "4 seeds".

    Returns:
        Whether a plot was written: there must be one to three options with two or more numbers.
    """
    columns = {option: [options[option] for options, *_ in results] for option in (results[0][0] if results else ())}
    numbers = {option: np.array([_number(value) for value in values]) for option, values in columns.items()}
    numbers = {option: x for option, x in numbers.items() if np.isfinite(x).all() and len(set(columns[option])) > 1}
    if not 1 <= len(numbers) <= 3:
        return False
    along = max(numbers, key=lambda option: len(set(columns[option])))
    others = [option for option in columns if option != along and len(set(columns[option])) > 1]
    labels = [", ".join(f"{option}={options[option]}" for option in others) for options, *_ in results]
    lines = list(dict.fromkeys(labels))
    joined = len(lines) <= len(LINES) and (bool(others) or len(numbers) == 1)
    panels = [along] if joined else list(numbers)
    mean, spread = (np.array(values) for values in zip(*[row[1:] for row in results], strict=True))
    figure = Figure(figsize=(6.4 if len(panels) == 1 else 4.4 * len(panels), 4.0), dpi=150, layout="constrained")
    for axes, option in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        quiet_axes(axes)
        x = numbers[option]
        axes.set_xlabel(option)
        if x.min() > 0 and x.max() / x.min() >= 10:
            axes.set_xscale("log")
        for index, label in enumerate(lines if joined else [""]):
            members = [i for i in np.argsort(x) if not joined or labels[i] == label]
            axes.errorbar(
                x[members],
                mean[members],
                spread[members],
                color=LINES[index],
                marker="osD^vP"[index],
                markersize=5,
                linewidth=1.8 if joined else 0,
                elinewidth=1,
                capsize=2,
                label=label or None,
            )
    first = figure.axes[0]
    first.set_ylabel("return after adaptation")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, parse_math=False)
    note = f"bars: ± 1 standard error over {error}"
    handles = first.get_legend_handles_labels()  # explicit, since matplotlib would warn if there are none
    legend = first.legend(*handles, frameon=False, fontsize=9, title=note, title_fontsize=9, alignment="left")
    for text in legend.get_texts():
        text.set_parse_math(False)
    files.save(figure, path)
    return True
