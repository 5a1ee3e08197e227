"""Evaluation of the estimates of `benchmarks/estimators.py`: debiased bias, a table and a plot."""

from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.runs.evaluation import markdown

SAMPLED, EXPECTED = "sampled update", "expected update"
NOISE_OF = 1000
"""number of episodes for which relative noise is reported"""


def squared_norm(*groups: np.ndarray, replicates: int = 1000) -> tuple[float, float, float]:
    """Unbiased estimate of ‖b‖² and its 95 % interval, for b the sum of the groups' expectations.

    ‖mean‖² − Σ tr(C)/K. The bootstrap resamples the keys of each group [K, d] around a b of the debiased length. Around
    the mean itself, whose length is mostly noise for small b, no interval would cover 0. The wider upper tail is used
    for both sides.
    """
    random = np.random.default_rng(0)
    mean, noise, shift = np.zeros(groups[0].shape[1]), 0.0, np.zeros((replicates, groups[0].shape[1]))
    for group in groups:
        keys, away = len(group), group - group.mean(0)
        mean, noise = mean + group.mean(0), noise + (away**2).sum() / (keys * (keys - 1))
        weights = random.multinomial(keys, np.full(keys, 1 / keys), size=replicates) / keys
        shift += np.sqrt(keys / (keys - 1)) * (weights @ away)
    square = mean @ mean
    value = square - noise
    true = max(value, 0.0)
    drawn = ((mean * np.sqrt(true / square) + shift) ** 2).sum(1) - noise if square else np.zeros(replicates)
    width = float(np.quantile(drawn, 0.975)) - true
    return float(value), float(value - width), float(value + width)


def root(value: float) -> float:
    return float(np.sqrt(max(value, 0.0)))


def length(reference: np.ndarray) -> float:
    """‖E[reference]‖, for an exact gradient [d] or estimates [K, d]."""
    return float(np.linalg.norm(reference)) if reference.ndim == 1 else root(squared_norm(reference)[0])


def standard_error(samples: np.ndarray) -> float:
    """√(tr(C)/K): the standard error of the mean."""
    return float(np.sqrt(samples.var(0, ddof=1).sum() / len(samples))) if samples.ndim == 2 else 0.0


def against(samples: np.ndarray, reference: np.ndarray, norm: float, paired: bool) -> dict[str, Any]:
    """Cosine (None if noise is more than half of a mean) and bias of estimates [K, d].

    Args:
        samples: the estimates.
        reference: the exact value [d], or independent estimates of it [K', d].
        norm: biases are reported relative to this norm.
        paired: whether rows k of both are from the same data.
    """
    paired = paired or reference.ndim == 1
    square, low, high = squared_norm(samples - reference) if paired else squared_norm(samples, -reference)
    own, other = length(samples), length(reference)
    clear = own > 2 * standard_error(samples) and other > 2 * standard_error(reference)
    return {
        "itself": samples is reference,
        "cosine": min(1.0, (own**2 + other**2 - square) / (2 * own * other)) if clear else None,
        "bias": root(square),
        "interval": [root(low), root(high)],
        "distinguishable": low > 0,
        "relative_bias": root(square) / norm,
        "relative_interval": [root(low) / norm, root(high) / norm],
    }


def describe(name: str, report: dict[str, Any]) -> str:
    """One line that describes a problem."""
    sizes, (before, after) = report["sizes"], report["return"]
    errors = [f"{objective} {100 * error:.3g} %" for objective, error in report["reference_error"].items()]
    return (
        f"{name}: {sizes['tasks']} tasks × {sizes['episodes']} episodes × {report['horizon']} steps, "
        f"α = {sizes['inner_lr']}, {report['parameters']} parameters, {sizes['keys']} estimates, "
        f"return {before:.3g} → {after:.3g}; "
        + (f"s.e. of the references: {', '.join(errors)}" if "large" in report else "references exact")
    )


def table(report: dict[str, Any]) -> str:
    """Markdown table, one row per estimator; % of the gradient's norm, and < if the interval includes 0."""

    def cells(found):
        if found["itself"]:
            return "reference", "reference"
        low, high = (100 * bound for bound in found["relative_interval"])
        size = (
            f"{100 * found['relative_bias']:.3g} [{low:.3g}, {high:.3g}]"
            if found["distinguishable"]
            else f"< {high:.3g}"
        )
        return "–" if found["cosine"] is None else f"{found['cosine']:.3f}", size

    header = ["estimator", f"cosine, {SAMPLED}", "bias %", f"cosine, {EXPECTED}", "bias %"]
    rows = [
        [name, *cells(row[SAMPLED]), *cells(row[EXPECTED]), f"{100 * row['relative_noise']:.3g}"]
        for name, row in report["estimators"].items()
    ]
    return markdown.table([*header, f"noise of {NOISE_OF} episodes %"], rows)


def table_of_costs(costs: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{row['milliseconds']:.0f}",
            f"{row['cpu_milliseconds']:.0f}",
            f"{row['cpu_times_first_order']:.2f}",
            f"{row['megabytes']:.0f}",
        ]
        for name, row in costs["estimators"].items()
    ]
    return markdown.table(["estimator", "ms", "CPU-ms", "× first order", "MB"], rows)


# Colours for colour-blind readers (Okabe, Ito 2008), and shapes for print without colour. Sizes differ, so that markers
# that coincide, as many do if episodes have one step, are visible inside each other.
MARKS = {
    "first order": ("#000000", "s", 10),
    "plain": ("#d55e00", "o", 6),
    "LVC": ("#0072b2", "^", 12),
    "DiCE, no baseline": ("#999999", "D", 7),
    "DiCE": ("#009e73", "D", 7),
    "Loaded DiCE 0.9": ("#56b4e9", "v", 5),
    "TMAML": ("#cc79a7", "P", 8),
    "plain + credit": ("#e69f00", "o", 8),
    "LVC + credit": ("#e69f00", "^", 8),
    "ES-MAML": ("#000000", "x", 7),
}


def _points(axes: Any, report: dict[str, Any], objective: str) -> set[str]:
    """Draws each estimator's bias with its interval, and returns the names of those drawn."""
    points = {
        name: (own["relative_noise"], own[objective])
        for name, own in report["estimators"].items()
        if not own[objective]["itself"]
    }
    seen = [found["relative_interval"][0] for _, found in points.values() if found["distinguishable"]]
    upper = [found["relative_interval"][1] for _, found in points.values()]
    floor = 0.4 * min([*seen, *upper])
    for name, (noise, found) in points.items():
        color, marker, size = MARKS[name]
        low, high = found["relative_interval"]
        clear = found["distinguishable"]
        height = found["relative_bias"] if clear else floor
        axes.plot([noise, noise], [low if clear else floor, high], color=color, linewidth=1.2, alpha=0.7)
        axes.plot(noise, height, marker, color=color, markersize=size, fillstyle="full" if clear else "none")
    axes.axhline(floor, color="#777777", linestyle=":", linewidth=1)
    return set(points)


def draw(reports: dict[str, dict[str, Any]], path: Path) -> None:
    """Plots relative bias against relative noise, one column per problem, one row per objective."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(3.2 * max(len(reports), 2) + 0.4, 7.2), dpi=130, layout="constrained")
    panels = figure.subplots(2, len(reports), squeeze=False)
    shown: set[str] = set()
    for column, (problem, report) in enumerate(reports.items()):
        for row, objective in enumerate((SAMPLED, EXPECTED)):
            axes = panels[row, column]
            shown |= _points(axes, report, objective)
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
                axis.set_minor_formatter(NullFormatter())
                axis.set_tick_params(labelsize=8)
            axes.tick_params(axis="x", rotation=45)
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(f"{problem}: {objective}", loc="left", fontsize=10)
            error = report["reference_error"][objective]
            if error:
                note = f"reference: s.e. {100 * error:.3g} %"
                axes.text(0.98, 0.98, note, transform=axes.transAxes, ha="right", va="top", fontsize=8)
            if column == 0:
                axes.set_ylabel("‖bias‖ / ‖gradient‖")
            if row == 1:
                axes.set_xlabel(f"noise of {NOISE_OF} episodes / ‖gradient‖")
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=name)
        for name, (color, marker, _) in MARKS.items()
        if name in shown
    ]
    handles.append(
        Line2D([], [], color="#777777", linestyle=":", label="hollow, on this line: not distinguishable from 0")
    )
    handles.append(Line2D([], [], color="#777777", label="95 % interval"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3 * max(len(reports), 2) // 2, frameon=False, fontsize=9
    )
    figure.savefig(path)
