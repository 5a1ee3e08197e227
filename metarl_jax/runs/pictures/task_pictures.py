"""Descriptions and plots of tasks; the name and shape of a leaf determine how it is shown."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from metarl_jax.envs import DynamicsTask
from metarl_jax.plot import BLUE, GREY, ORANGE, quiet_axes
from metarl_jax.runs.pictures.plots import styled
from metarl_jax.runs.pictures.replay import Episode
from metarl_jax.runs.storage import files
from metarl_jax.types import PyTree, is_key

UNITS = {"target": " m/s"}
"""units of leaves of the task structs in `metarl_jax.envs`"""
MOST_NUMBERS = 6
"""maximum number of a task's numbers in a title"""


def leaves(task: PyTree) -> dict[str, np.ndarray]:
    """The arrays of a task, or of a batch of tasks, by name: fields or keys, joined by dots.

    Random keys, whose numbers say nothing, are left out, unless a task holds nothing else.
    """
    found = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(task)}
    if all(map(is_key, found.values())):
        found = {name: jax.random.key_data(leaf) for name, leaf in found.items()}
    return {name: np.asarray(leaf) for name, leaf in found.items() if not is_key(leaf)}


def _name(path: tuple[Any, ...]) -> str:
    parts = (getattr(entry, "name", getattr(entry, "key", getattr(entry, "idx", entry))) for entry in path)
    return ".".join(map(str, parts)) or "task"


def describe(task: PyTree) -> str:
    """Short description of one task, such as "target 1.30 m/s", "goal (0.12, −0.05)" or "mass × 0.4 to 2.7"."""
    words, remaining = [], MOST_NUMBERS
    for name, value in leaves(task).items():
        if isinstance(task, DynamicsTask):
            low, high = value.min(), value.max()
            words.append(f"{name.partition('.')[2]} × {low:.2g}" + (f" to {high:.2g}" if high > low else ""))
            continue
        if value.size > remaining:
            words.append(f"{name} {list(value.shape)}")
            continue
        remaining -= value.size
        if name == "direction" and value.ndim == 0:
            words.append(f"direction {'forwards' if value > 0 else 'backwards'} ({value:+.0f})".replace("-", "−"))
            continue
        numbers = ", ".join(f"{number:.2f}".replace("-", "−") for number in value.ravel())
        words.append(f"{name} {numbers if value.ndim == 0 else f'({numbers})'}{UNITS.get(name, '')}")
    return ", ".join(words)


@styled
def draw_tasks(tasks: PyTree, path: Path, *, title: str) -> None:
    """Plots sampled tasks, one panel per leaf.

    A goal in the plane is a dot, a direction a bar or a dot on the circle, a bandit a row of a heat map. MDPs are shown
    by the mean rewards of the first. Other leaves are shown as a histogram, which has a logarithmic axis if the numbers
    are not targets, are positive and range over more than a factor of 3.

    Args:
        tasks: a batch, leaves [B, ...].
        path: path of the plot.
        title: family, split and number of tasks.
    """
    shown = leaves(tasks)
    if "mean_reward" in shown:  # transition probabilities are hard to read in a plot
        shown.pop("transition", None)
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(1.6 + 4.0 * columns, 0.6 + 3.6 * rows), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.02, ha="left", parse_math=False)
    for index, (name, values) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        quiet_axes(axes)
        _draw_leaf(figure, axes, name, values)
    files.save(figure, path)


def _draw_leaf(figure: Figure, axes: Axes, name: str, values: np.ndarray) -> None:
    shape, field = values.shape[1:], name.rsplit(".", 1)[-1]
    if field == "goal" and shape in ((2,), (3,)):
        dots = axes.scatter(*values[:, :2].T, s=22, c=values[:, 2] if shape == (3,) else BLUE, alpha=0.8, linewidths=0)
        if shape == (3,):
            figure.colorbar(dots, label="z (m)")
        axes.plot(0, 0, "+", color=GREY, markersize=11, label="origin")
        axes.set(xlabel="x (m)", ylabel="y (m)", aspect="equal")
        axes.legend(frameon=False, fontsize=8)
    elif field == "direction" and shape == ():
        kinds, counts = np.unique(values, return_counts=True)
        bars = axes.bar(
            [f"{kind:+g}" for kind in kinds], counts, color=[ORANGE if k < 0 else BLUE for k in kinds], width=0.6
        )
        axes.bar_label(bars)
        axes.set(xlabel="direction", ylabel="tasks")
    elif field == "direction" and shape == (2,):
        angle = np.linspace(0, 2 * np.pi, 200)
        axes.plot(np.cos(angle), np.sin(angle), color=GREY, linewidth=0.6)
        axes.scatter(*values.T, s=22, color=BLUE, alpha=0.8, linewidths=0)
        axes.set(xlabel="x", ylabel="y", aspect="equal")
    elif field == "probability" and len(shape) == 1:
        image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        figure.colorbar(image, label="probability of a reward")
        axes.set(xlabel="arm", ylabel="task", xticks=range(shape[0]))
        axes.grid(False)
    elif field == "mean_reward" and len(shape) == 2:
        image = axes.imshow(values[0], aspect="auto", cmap="viridis", interpolation="nearest")
        figure.colorbar(image, label="mean reward")
        axes.set(xlabel="action", ylabel="state", xticks=range(shape[1]), yticks=range(shape[0]))
        axes.set_title("the first of the tasks", fontsize=9, loc="left")
        axes.grid(False)
    else:
        _histogram(axes, name, values)


def _histogram(axes: Axes, name: str, values: np.ndarray) -> None:
    numbers = values.ravel().astype(float)
    low, high = numbers.min(), numbers.max()
    logarithmic = low > 0 and high > 3 * low and name.rsplit(".", 1)[-1] not in ("goal", "target")
    count = int(np.clip(math.sqrt(len(numbers)), 5, 30))
    bins = np.geomspace(low, high, count + 1) if logarithmic else count
    axes.hist(numbers, bins=bins, color=BLUE, alpha=0.85, edgecolor="white", linewidth=0.5)
    if logarithmic:
        axes.set_xscale("log")
        ticks = [tick for tick in (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10) if low <= tick <= high]
        if len(ticks) > 2:  # for less than two decades, the default axis has only one label
            axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    unit = UNITS.get(name, "").strip()
    numbers_each = math.prod(values.shape[1:])
    axes.set_xlabel(f"{name} ({unit})" if unit else name, parse_math=False)
    axes.set_ylabel("tasks" if numbers_each == 1 else f"numbers ({numbers_each} per task)")


@styled
def draw_paths(
    tasks: list[tuple[str, np.ndarray]],
    episodes: list[tuple[Episode, Episode]],
    path: Path,
    *,
    title: str,
    labels: tuple[str, str],
) -> None:
    """Plots the paths of a point in the plane: one column per task, before adaptation above, after it below.

    Args:
        tasks: title and goal [2] of each task.
        episodes: episodes of each task before and after; `look` is the position [N, T+1, 2], other leaves are [N, T].
        path: path of the plot.
        title: task and algorithm.
        labels: labels of the rows.
    """
    figure = Figure(figsize=(1.0 + 2.9 * len(tasks), 6.6), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.02, ha="left", parse_math=False)
    grid = figure.subplots(2, len(tasks), sharex=True, sharey=True, squeeze=False)
    for column, ((name, goal), pair) in enumerate(zip(tasks, episodes, strict=True)):
        for row, (axes, episode, color) in enumerate(zip(grid[:, column], pair, (ORANGE, BLUE), strict=True)):
            quiet_axes(axes)
            positions = np.asarray(episode.look)
            axes.plot(*positions.transpose(2, 1, 0), color=color, alpha=0.4, linewidth=0.8)
            axes.plot(*positions[:, -1].T, ".", color=color, markersize=5, label="end")
            axes.plot(*positions[:, 0].T, "o", color="white", markeredgecolor="black", markersize=6, label="start")
            axes.plot(*goal, "*", color="#f2b705", markeredgecolor="black", markersize=13, label="goal")
            returns = np.asarray(episode.reward).sum(-1)
            mean = f"mean return {returns.mean():.1f}".replace("-", "−")
            axes.set_title(f"{name}\n{mean}" if row == 0 else mean, fontsize=9, loc="left", parse_math=False)
            axes.set_aspect("equal")
            if column == 0:
                axes.set_ylabel(f"{labels[row]}\ny")
            if row == 1:
                axes.set_xlabel("x")
    grid[0, 0].legend(frameon=False, fontsize=8)
    files.save(figure, path)
