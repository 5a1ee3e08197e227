"""Pictures of a run. They use figures without a window system, so nothing global is set and no display is needed."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl_jax.evaluation import iqm_interval
from metarl_jax.runs import files
from metarl_jax.runs.comparisons import ORACLE

# Matplotlib announces that it builds a font cache, once per machine; nobody who trains needs to know.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

styled = style.context("default")
"""Around what draws: a picture is the same on every machine. A ``matplotlibrc`` in the working folder, which may be a
stranger's run, could else have its texts set by LaTeX, a program."""

BLUE, ORANGE, GREY = "#2166ac", "#d6604d", "#777777"  # told apart by colour-blind readers and on paper
_LINES = (BLUE, ORANGE, "#1b7837", "#762a83", "#b8860b", GREY)
_MOST_TICKS, _LONG = 12, 200  # stages with a tick each; stages from which on the axis is logarithmic
_ROWS = {"adapted": ("meta-trained", BLUE, "o"), "random_init": ("random initialisation", GREY, "s")}


def _axes(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    quiet_axes(axes)
    return figure, axes


def quiet_axes(axes: Axes) -> None:
    """A faint grid, and no frame above and to the right."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _return_label(horizon: int) -> str:
    return f"return per episode ({horizon} step{'s'[: horizon > 1]}, undiscounted)"


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Trailing mean over at most `window` values, fewer at the start, NaN left out; same length [n]."""
    values = np.asarray(values, float)
    met = np.isfinite(values)
    total, count = (np.cumsum(np.insert(x, 0, 0)) for x in (np.where(met, values, 0.0), met))
    end = np.arange(1, len(total))
    start = np.maximum(end - window, 0)
    number = count[end] - count[start]
    return np.where(number > 0, (total[end] - total[start]) / np.maximum(number, 1), np.nan)


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The columns of a metrics.csv as float64 arrays [iterations]."""
    with files.opened(path, newline="") as file:
        reader = csv.reader(file)
        header = next(reader)
        values = np.array([[float(cell) for cell in row] for row in reader]).reshape(-1, len(header))
    return dict(zip(header, values.T, strict=True))


@styled
def learning_curve(metrics: dict[str, np.ndarray], path: Path, *, title: str, horizon: int, unit: str) -> None:
    """Return before and after adaptation against meta-iterations: every iteration faint, its trailing mean bold.

    Of several seeds the trailing means are faint, and their mean is bold.

    Args:
        metrics: columns of metrics.csv, return_0 … return_L among them.
        path: of the picture.
        title: task and algorithm.
        horizon: T, for the axis label.
        unit: what lies between two stages: an inner step, or an episode of a memory.
    """
    stages = sorted((name for name in metrics if name.startswith("return_")), key=lambda name: int(name[7:]))
    seeds = len(np.unique(metrics["seed"]))
    metrics = {name: values.reshape(-1, seeds) for name, values in metrics.items()}
    iteration = metrics["iteration"][:, 0]
    window = max(1, min(25, len(iteration) // 10))
    figure, axes = _axes(title, "meta-iteration", _return_label(horizon))
    for index, name in enumerate(stages):
        label = f"after {index} {unit}{'s'[: index > 1]}" if index else "before adaptation"
        color = BLUE if index else ORANGE
        opacity = 1.0 if index in (0, len(stages) - 1) else 0.25 + 0.5 * index / (len(stages) - 1)
        smoothed = np.stack([smooth(values, window) for values in metrics[name].T], 1)
        if window > 1 or seeds > 1:
            faint = smoothed if seeds > 1 else metrics[name]
            axes.plot(iteration, faint, color=color, alpha=0.2 * opacity, linewidth=0.8)
        axes.plot(iteration, smoothed.mean(1), color=color, alpha=opacity, linewidth=1.8, label=label)
    if seeds > 1:
        axes.plot([], [], " ", label=f"faint: each of {seeds} seeds; bold: their mean")
    if window > 1:
        axes.plot([], [], " ", label=f"{'bold: ' if seeds == 1 else ''}mean of the last {window} iterations")
    if "environment_steps" in metrics and len(iteration) > 1:
        per_iteration = float(metrics["environment_steps"].mean())
        scale, unit = (1e6, "millions") if per_iteration * len(iteration) > 2e6 else (1e3, "thousands")
        top = axes.secondary_xaxis(
            "top",
            functions=(
                lambda x: np.multiply(x, per_iteration / scale),
                lambda x: np.multiply(x, scale / per_iteration),
            ),
        )
        top.set_xlabel(f"environment steps{' per seed' if seeds > 1 else ''} ({unit})", fontsize=9)
        top.tick_params(labelsize=8)
        top.spines["top"].set_visible(False)
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(stages) > 6 else {}
    axes.legend(frameon=False, fontsize=9, **beside)
    files.save(figure, path)


@styled
def adaptation(
    rows: dict[str, dict[str, Any]], path: Path, *, title: str, horizon: int, trained_episodes: int, seeds: int = 1
) -> None:
    """Return against episodes seen, on held-out tasks, ± one standard error over tasks, or over several seeds.

    A point is the mean return of a stage, above the episodes before it.

    Args:
        rows: of evaluation.json.
        path: of the picture.
        title: task, algorithm and number of tasks.
        horizon: T, for the axis label.
        trained_episodes: before the last stage of a trial in training; where the curve goes beyond, a line marks it.
        seeds: of training.
    """
    figure, axes = _axes(title, "", _return_label(horizon))
    episodes: list[int] = []
    for name, row in rows.items():
        label, color, marker = _ROWS.get(name, (name, None, "^"))
        mean, error, episodes = np.asarray(row["mean"]), np.asarray(row["standard_error"]), row["episodes"]
        marker = marker if len(episodes) <= _MOST_TICKS else ""
        axes.fill_between(episodes, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
        axes.plot(episodes, mean, color=color, marker=marker, markersize=5, linewidth=1.8, label=label)
    episodes_axis(axes, episodes)
    if 0 < trained_episodes < max(episodes, default=0):
        axes.axvline(trained_episodes, color=GREY, linestyle=":", linewidth=1, label="last stage in training")
    axes.plot([], [], " ", label=f"band: ± 1 standard error over {'tasks' if seeds == 1 else 'seeds'}")
    axes.legend(frameon=False, fontsize=9)
    files.save(figure, path)


def episodes_axis(axes: Axes, episodes: Sequence[int]) -> None:
    """An axis of the episodes seen before each stage: a tick per stage where they are few, a log scale for hundreds."""
    each = episodes[1] if len(episodes) > 1 else 1
    same = all(np.diff(episodes) == each)
    axes.set_xlabel("episodes seen" + (f" ({each} per stage)" if each > 1 and same else ""))
    if len(episodes) <= _MOST_TICKS and same:
        axes.set_xticks(episodes)
    elif len(episodes) > _LONG:
        # Linear up to the first stage's end, since 0 has no logarithm.
        axes.set_xscale("symlog", linthresh=each, linscale=0.5)
        axes.set_xlim(0, episodes[-1])
        axes.set_xticks(ticks := [0, *(10**n for n in range(9) if each <= 10**n <= episodes[-1])])
        axes.set_xticklabels(map(str, ticks))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@styled
def curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Return against episodes seen, a panel for each family: IQM over seeds and tasks with its bootstrap interval.

    Where a stage is several episodes, the curve is level until φ changes. The oracle's line is its return before it
    has seen anything, for it sees the task.

    Args:
        rows: of `family`, `algorithm`, `episodes` [S] before each stage, and `per_task` [R, num_tasks, S].
        path: of the picture.
    """
    families = list(dict.fromkeys(row["family"] for row in rows))
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    palette = (*_LINES[:-1], "#35978f")  # grey is the oracle's
    colors = dict(zip([name for name in names if name != ORACLE], palette * len(names), strict=False))
    figure = Figure(figsize=(4.6 * len(families), 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, family in zip(figure.subplots(1, len(families), squeeze=False)[0], families, strict=True):
        quiet_axes(axes)
        axes.set_title(family, loc="left", fontsize=11)
        axes.set_xlabel("episodes seen")
        last = 1
        for row in (row for row in rows if row["family"] == family):
            found, name = iqm_interval(np.array(row["per_task"])), row["algorithm"]
            if name == ORACLE:
                axes.axhline(found.estimate[0], color=GREY, linestyle="--", linewidth=1.2, label=name)
                continue
            episodes = row["episodes"]
            each = episodes[1] if len(episodes) > 1 else 1
            # A level stretch per stage; where a stage is one episode, a line through them.
            x = np.repeat([*episodes, episodes[-1] + each], 2)[1:-1] if each > 1 else np.array(episodes)
            estimate, low, high = (np.repeat(values, 2) if each > 1 else values for values in found)
            axes.fill_between(x, low, high, color=colors[name], alpha=0.18, linewidth=0)
            axes.plot(x, estimate, color=colors[name], linewidth=1.6, label=name)
            last = max(last, int(x[-1]))
        # Linear from 0 to 1, which a log scale could not show.
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.set_xlim(0, last)
        axes.set_xticks(ticks := [tick for tick in (0, 1, 2, 5, 10, 20, 40, 80, 200, 500, 1000) if tick <= last])
        axes.set_xticklabels(map(str, ticks))
        axes.minorticks_off()
    figure.axes[0].set_ylabel("return of an episode, IQM")
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = min(len(handles), 3 * len(families))
    figure.legend(handles.values(), handles, frameon=False, fontsize=9, loc="outside lower center", ncols=columns)
    figure.suptitle("band: 95 % stratified bootstrap interval over seeds", x=0.01, ha="left", fontsize=9)
    files.save(figure, path)


@styled
def profiles(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Performance profiles: the share of seeds and tasks whose score over the trial exceeds a threshold, by family.

    Args:
        rows: as those of `curves`, with an oracle and an untrained row for each family; see
            `metarl_jax.runs.adaptation`.
        path: of the picture.
    """
    from metarl_jax.runs import adaptation

    scales = adaptation.anchors(rows)
    names = [name for name in dict.fromkeys(row["algorithm"] for row in rows) if name != ORACLE]
    colors = dict(zip(names, (*_LINES[:-1], "#35978f") * len(names), strict=False))
    figure = Figure(figsize=(4.6 * len(scales), 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    thresholds = np.linspace(-0.2, 1.1, 131)
    for axes, (family, scale) in zip(figure.subplots(1, len(scales), squeeze=False)[0], scales.items(), strict=True):
        quiet_axes(axes)
        axes.set_title(family, loc="left", fontsize=11)
        axes.set_xlabel("score over the trial: 0 untrained, 1 oracle")
        for row in (row for row in rows if row["family"] == family and row["algorithm"] != ORACLE):
            share = adaptation.profile(adaptation.area(adaptation.normalized(row, scale)), thresholds)
            axes.plot(thresholds, share, color=colors[row["algorithm"]], linewidth=1.6, label=row["algorithm"])
    figure.axes[0].set_ylabel("share of seeds and tasks above it")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=min(len(labels), 4))
    files.save(figure, path)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


@styled
def sweep(results: Sequence[tuple[dict[str, str], float, float]], path: Path, *, title: str, error: str) -> bool:
    """Return after adaptation against the numbers that a sweep varies, ± one standard error.

    A grid is one panel: the option with the most values along the axis, a line per combination of the others. Where
    those are too many for lines, as in a random sweep, each option has a panel of points.

    Args:
        results: of every finished member its options, mean return and standard error.
        path: of the picture.
        title: of the sweep.
        error: what the standard error is over.

    Returns:
        Whether there was something to draw: one to three options with two or more numbers.
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
    panels = [along] if len(lines) <= 6 and (others or len(numbers) == 1) else list(numbers)
    mean, spread = (np.array(values) for values in zip(*[row[1:] for row in results], strict=True))
    figure = Figure(figsize=(6.4 if len(panels) == 1 else 4.4 * len(panels), 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, option in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        quiet_axes(axes)
        x = numbers[option]
        axes.set_xlabel(option)
        if x.min() > 0 and x.max() / x.min() >= 10:
            axes.set_xscale("log")
        drawn = lines if len(panels) == 1 else [""]
        for index, label in enumerate(drawn):
            members = [i for i in np.argsort(x) if len(panels) > 1 or labels[i] == label]
            axes.errorbar(
                x[members],
                mean[members],
                spread[members],
                color=_LINES[index],
                marker="osD^vP"[index],
                markersize=5,
                linewidth=1.8 if len(panels) == 1 else 0,
                elinewidth=1,
                capsize=2,
                label=label or None,
            )
    first = figure.axes[0]
    first.set_ylabel("return after adaptation")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, parse_math=False)
    note = f"bars: ± 1 standard error over {error}"
    handles = first.get_legend_handles_labels()  # given, since there may be none, of which matplotlib would warn
    legend = first.legend(*handles, frameon=False, fontsize=9, title=note, title_fontsize=9, alignment="left")
    for text in legend.get_texts():
        text.set_parse_math(False)
    files.save(figure, path)
    return True
