"""Plot of meta-learned hyperparameters over training."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from metarl_jax.plot import BLUE, quiet_axes
from metarl_jax.runs.pictures.plots import styled
from metarl_jax.runs.storage import files

HYPERPARAMETERS = {
    "discount": "discount γ",
    "lambda_": "λ",
    "entropy_weight": "entropy weight",
    "value_weight": "value weight",
    "learning_rate": "learning rate α",
}
"""`metarl_jax.inner.HYPERPARAMETERS` with plot labels"""


@styled
def hyperparameters(metrics: dict[str, np.ndarray], path: Path, *, title: str) -> bool:
    """Plots the hyperparameters in θ against meta-iterations, one panel for each that changes.

    With several seeds, each is faint, and their mean is bold.

    Args:
        metrics: columns of metrics.csv.
        path: path of the plot.
        title: task and algorithm.

    Returns:
        Whether a plot was written: all of `HYPERPARAMETERS` must be among the metrics, and at least one must change.
    """
    if not HYPERPARAMETERS.keys() <= metrics.keys():
        return False
    moving = {name: label for name, label in HYPERPARAMETERS.items() if np.ptp(metrics[name]) > 0}
    if not moving:
        return False
    seeds = len(np.unique(metrics["seed"]))
    figure = Figure(figsize=(max(6.4, 2.4 * len(moving)), 2.8), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(moving), squeeze=False)[0]
    iteration = metrics["iteration"][::seeds]
    for axes, (name, label) in zip(panels, moving.items(), strict=True):
        quiet_axes(axes)
        values = metrics[name].reshape(-1, seeds)
        if seeds > 1:
            axes.plot(iteration, values, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(iteration, values.mean(1), color=BLUE, linewidth=1.8)
        axes.set_title(label, loc="left", fontsize=10)
        axes.set_xlabel("meta-iteration", fontsize=9)
        axes.tick_params(labelsize=8)
    note = f"; faint: each of {seeds} seeds; bold: their mean" if seeds > 1 else ""
    figure.suptitle(f"{title}: θ over time{note}", x=0.01, ha="left", fontsize=11, parse_math=False)
    files.save(figure, path)
    return True
