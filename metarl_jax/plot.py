"""Plots of training and of evaluations, drawn into Matplotlib axes, for notebooks; a run's pictures are made by these.

Importing this module loads Matplotlib, which ``import metarl_jax`` does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from metarl_jax import checks
from metarl_jax.evaluation import Row
from metarl_jax.training import Chunk

__all__ = ["adaptation_curve", "learning_curve"]

BLUE, ORANGE, GREY = "#2166ac", "#d6604d", "#777777"  # distinguishable for colour-blind readers and in print
LINES = (BLUE, ORANGE, "#1b7837", "#762a83", "#b8860b", GREY)
_MOST_TICKS, _LONG = 12, 200  # most stages with one tick each; most stages on a linear axis
_ROWS = {"adapted": ("meta-trained", BLUE, "o"), "random_init": ("random initialisation", GREY, "s")}
_MARKERS = "^Dv<>P"


def quiet_axes(axes: Axes) -> None:
    """Draws a faint grid and removes the top and right spines."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _prepared(ax: Axes | None, title: str, xlabel: str, horizon: int | None) -> Axes:
    """The axes, or those of a new figure, with texts and a grid."""
    if ax is None:
        from matplotlib import pyplot  # only here, so that pictures of runs have no global state

        ax = pyplot.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise ValueError(
            f"ax is of type {type(ax).__name__}; it must be one of Matplotlib's Axes, or None for new ones"
        )
    steps = "" if horizon is None else f"{horizon} step{'s'[: checks.integer('horizon', horizon) > 1]}, "
    ax.set_title(title, loc="left", fontsize=11, parse_math=False)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(f"return per episode ({steps}undiscounted)")
    quiet_axes(ax)
    return ax


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Trailing mean over at most `window` values, fewer at the start, ignoring NaN; same length [n]."""
    values = np.asarray(values, float)
    finite = np.isfinite(values)
    total, count = (np.cumsum(np.insert(x, 0, 0)) for x in (np.where(finite, values, 0.0), finite))
    end = np.arange(1, len(total))
    start = np.maximum(end - window, 0)
    finite_count = count[end] - count[start]
    return np.where(finite_count > 0, (total[end] - total[start]) / np.maximum(finite_count, 1), np.nan)


def learning_curve(
    metrics: Mapping[str, Any] | Chunk | Iterable[Mapping[str, Any] | Chunk],
    ax: Axes | None = None,
    *,
    title: str = "Meta-training",
    horizon: int | None = None,
    unit: str = "inner step",
) -> Axes:
    """Draws return before and after adaptation against meta-iterations: values faint, trailing mean bold.

    The trailing mean at iteration i is (1/w) Σ_{j = i−w+1 … i} R_j with w = 25, or a tenth of n iterations if that is
    less. With several seeds the trailing mean of each is faint, and their mean is bold. If the environment steps are
    among the metrics, a second axis at the top counts them.

    Args:
        metrics: what `metarl_jax.training.train` yields, a list of its chunks or of their `metrics`, or metrics of your
            own: "return" [n, S], or [n, R, S] with R seeds, and, if you like, "environment_steps" [n] or [n, R] and
            "iteration" [n], which otherwise counts from 0.
        ax: the axes; None: those of a new figure of pyplot.
        title: title of the axes.
        horizon: T, for the label of the returns; None: not told.
        unit: what lies between two stages: "inner step", or "episode" for a memory.

    Returns:
        The axes.

    Raises:
        ValueError: there is no "return" of at least one iteration, or shapes do not go together.

    Example:
        >>> algorithm = mrl.algorithms.make("maml", mrl.envs.make("point-nav", horizon=5), tasks=2, episodes=3)
        >>> chunks = list(mrl.training.train(algorithm, jax.random.key(0), iterations=4))
        >>> axes = mrl.plot.learning_curve(chunks)
        >>> [line.get_label() for line in axes.get_lines()]
        ['before adaptation', 'after 1 inner step']
    """
    iteration, returns, steps = _training(metrics)
    seeds, stages = returns.shape[1:]
    window = max(1, min(25, len(iteration) // 10))
    axes = _prepared(ax, title, "meta-iteration", horizon)
    for index in range(stages):
        values = returns[..., index]
        label = f"after {index} {unit}{'s'[: index > 1]}" if index else "before adaptation"
        color = BLUE if index else ORANGE
        opacity = 1.0 if index in (0, stages - 1) else 0.25 + 0.5 * index / (stages - 1)
        smoothed = np.stack([smooth(one, window) for one in values.T], 1)
        if window > 1 or seeds > 1:
            axes.plot(iteration, smoothed if seeds > 1 else values, color=color, alpha=0.2 * opacity, linewidth=0.8)
        axes.plot(iteration, smoothed.mean(1), color=color, alpha=opacity, linewidth=1.8, label=label)
    if seeds > 1:
        axes.plot([], [], " ", label=f"faint: each of {seeds} seeds; bold: their mean")
    if window > 1:
        axes.plot([], [], " ", label=f"{'bold: ' if seeds == 1 else ''}mean of the last {window} iterations")
    if steps is not None and len(iteration) > 1:
        _count_steps(axes, float(steps.mean()), len(iteration), " per seed" if seeds > 1 else "")
    position = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if stages > 6 else {}
    axes.legend(frameon=False, fontsize=9, **position)
    return axes


def _count_steps(axes: Axes, per_iteration: float, iterations: int, of: str) -> None:
    """A second axis, at the top."""
    scale, unit = (1e6, "millions") if per_iteration * iterations > 2e6 else (1e3, "thousands")
    top = axes.secondary_xaxis(
        "top",
        functions=(lambda x: np.multiply(x, per_iteration / scale), lambda x: np.multiply(x, scale / per_iteration)),
    )
    top.set_xlabel(f"environment steps{of} ({unit})", fontsize=9)
    top.tick_params(labelsize=8)
    top.spines["top"].set_visible(False)


def _training(metrics: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Iterations [n], returns [n, R, S], and environment steps [n] or [n, R] if there are any."""
    parts = [metrics] if isinstance(metrics, Mapping | Chunk) or not isinstance(metrics, Iterable) else list(metrics)
    parts = [part.metrics if isinstance(part, Chunk) else part for part in parts]
    for part in parts:
        if not isinstance(part, Mapping) or "return" not in part:
            has = (
                f"holds {', '.join(map(str, part))}"
                if isinstance(part, Mapping)
                else f"is of type {type(part).__name__}"
            )
            raise ValueError(
                f"metrics {has}; it must hold 'return', as the chunks of metarl_jax.training.train and their metrics do"
            )
    if not parts:
        raise ValueError("metrics is empty; hand in at least one chunk")

    def joined(name: str) -> np.ndarray:
        return np.concatenate([np.atleast_1d(np.asarray(part[name], float)) for part in parts])

    shapes = {np.shape(part["return"])[1:] for part in parts}
    if len(shapes) > 1 or len(next(iter(shapes))) not in (1, 2):
        raise ValueError(
            f"'return' has shapes {', '.join(str(list(np.shape(part['return']))) for part in parts)}; they must be "
            "[n, S], or [n, R, S] with R seeds, with the same R and S in all chunks"
        )
    returns = joined("return")
    returns = returns[:, None] if returns.ndim == 2 else returns
    if not returns.size:
        raise ValueError("metrics hold no iteration; hand in at least one")
    first = {name: joined(name) for name in ("iteration", "environment_steps") if all(name in part for part in parts)}
    for name, values in first.items():
        if len(values) != len(returns):
            raise ValueError(
                f"{name!r} has {len(values)} entries, and 'return' has {len(returns)}; hand in one for each"
            )
    return first.get("iteration", np.arange(len(returns))), returns, first.get("environment_steps")


def adaptation_curve(
    rows: Row | Mapping[str, Row | Mapping[str, Any]],
    ax: Axes | None = None,
    *,
    title: str = "Adaptation to held-out tasks",
    horizon: int | None = None,
    trained_episodes: float = 0,
    seeds: int = 1,
) -> Axes:
    """Draws return on held-out tasks against episodes seen, with bands of ± one standard error.

    Each point is the mean return of a stage, at the number of episodes before it.

    Args:
        rows: what `metarl_jax.evaluation.evaluate` returns, or one row, or rows of several algorithms by the names that
            the legend is to show; also the rows of an evaluation.json.
        ax: the axes; None: those of a new figure of pyplot.
        title: title of the axes.
        horizon: T, for the label of the returns; None: not told.
        trained_episodes: episodes before the last stage of a training trial; marked by a line if the curve goes beyond.
        seeds: number of training seeds; with several, standard errors are those over seeds, see
            `metarl_jax.evaluation.across_seeds`.

    Returns:
        The axes.

    Raises:
        ValueError: `rows` is empty or holds something else.

    Example:
        >>> run = mrl.zoo.load("point-nav/maml-trpo")
        >>> rows = mrl.evaluation.evaluate(run.algorithm, run.env, jax.random.key(0), run.params, num_tasks=4, steps=2)
        >>> axes = mrl.plot.adaptation_curve(rows, horizon=run.env.horizon)
        >>> axes.get_lines()[0].get_xdata()  # episodes seen
        array([ 0, 20, 40])
    """
    curves = _curves(rows)
    checks.integer("seeds", seeds)
    axes = _prepared(ax, title, "", horizon)
    others = iter(range(len(curves)))
    for name, (episodes, mean, error) in curves.items():
        other = None if name in _ROWS else next(others)
        label, color, marker = (
            _ROWS[name] if other is None else (name, LINES[other % len(LINES)], _MARKERS[other % len(_MARKERS)])
        )
        marker = marker if len(episodes) <= _MOST_TICKS else ""
        axes.fill_between(episodes, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)
        axes.plot(episodes, mean, color=color, marker=marker, markersize=5, linewidth=1.8, label=label)
    ticks = [episodes for episodes, *_ in curves.values()]
    episodes_axis(axes, np.unique(np.concatenate(ticks)))
    if not all(np.array_equal(ticks[0], other) for other in ticks):
        axes.set_xlabel("episodes seen")  # stages of several sizes
    if 0 < trained_episodes < max(map(max, ticks)):
        axes.axvline(trained_episodes, color=GREY, linestyle=":", linewidth=1, label="last stage in training")
    axes.plot([], [], " ", label=f"band: ± 1 standard error over {'tasks' if seeds == 1 else 'seeds'}")
    for text in axes.legend(frameon=False, fontsize=9).get_texts():
        text.set_parse_math(False)
    return axes


def _curves(rows: Any) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Name → episodes before each stage, mean return and standard error, [S] each."""
    rows = {"adapted": rows} if isinstance(rows, Row) else rows
    if not isinstance(rows, Mapping) or not rows:
        what = "empty" if isinstance(rows, Mapping) else f"of type {type(rows).__name__}"
        raise ValueError(
            f"rows is {what}; it must be what metarl_jax.evaluation.evaluate returns, or such rows by name"
        )
    columns, curves = ("episodes", "mean", "standard_error"), {}
    for name, row in rows.items():
        values = row._asdict() if isinstance(row, Row) else row
        if not isinstance(values, Mapping) or not values.keys() >= set(columns):
            raise ValueError(
                f"row {name!r} is of type {type(row).__name__}, without {', '.join(columns)}; it must be a "
                "metarl_jax.evaluation.Row, or one of evaluation.json"
            )
        curve = tuple(np.asarray(values[column]) for column in columns)
        if {one.shape for one in curve} != {(curve[0].size,)} or not curve[0].size:
            shapes = ", ".join(f"{column} {list(one.shape)}" for column, one in zip(columns, curve, strict=True))
            raise ValueError(f"row {name!r} has {shapes}; they must have one entry for each stage")
        curves[str(name)] = curve
    return curves


def episodes_axis(axes: Axes, episodes: Sequence[float] | np.ndarray) -> None:
    """Sets up the axis of episodes before each stage: one tick per stage if there are few, log scale if many."""
    each = episodes[1] if len(episodes) > 1 else 1
    same = all(np.diff(episodes) == each)
    axes.set_xlabel("episodes seen" + (f" ({each} per stage)" if each > 1 and same else ""))
    if len(episodes) <= _MOST_TICKS and same:
        axes.set_xticks(episodes)
    elif len(episodes) > _LONG:
        # Linear up to the end of the first stage, to include 0.
        axes.set_xscale("symlog", linthresh=each, linscale=0.5)
        axes.set_xlim(0, episodes[-1])
        axes.set_xticks(ticks := [0, *(10**n for n in range(9) if each <= 10**n <= episodes[-1])])
        axes.set_xticklabels(map(str, ticks))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
