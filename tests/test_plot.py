"""What is drawn of training and of evaluations: the data of lines and bands, and refusals."""

from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

import metarl_jax as mrl
from metarl_jax.evaluation import summarize
from metarl_jax.plot import LINES
from metarl_jax.runs.evaluation.reports import _row
from metarl_jax.training import Chunk


@pytest.fixture
def axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def row(seed=0, stages=3, episodes=5):
    generator = np.random.default_rng(seed)
    lengths = np.full((4, stages, episodes), 7)
    return summarize(generator.normal(seed, 1, (4, stages)), lengths)


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def lines(axes):
    """Label → line, of those with data and a name."""
    return {line.get_label(): line for line in axes.get_lines() if len(line.get_xdata()) and line.get_label()[0] != "_"}


def test_few_iterations_are_drawn_as_they_are(axes):
    returns = np.array([[0.0, 1.0, 5.0], [2.0, 4.0, -1.0]])
    metrics = {"return": returns, "environment_steps": np.array([500, 500]), "unknown": np.zeros(2)}
    assert mrl.plot.learning_curve(metrics, axes, horizon=1, unit="episode") is axes
    drawn = lines(axes)
    assert list(drawn) == labels(axes) == ["before adaptation", "after 1 episode", "after 2 episodes"]
    for stage, line in enumerate(drawn.values()):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([[0, 1], returns[:, stage]], 1))
    assert (axes.get_xlabel(), axes.get_title("left")) == ("meta-iteration", "Meta-training")
    assert axes.get_ylabel() == "return per episode (1 step, undiscounted)"
    (top,) = axes.child_axes
    axes.figure.canvas.draw()
    assert top.get_xlabel() == "environment steps (thousands)"
    np.testing.assert_allclose(top.get_xlim(), np.multiply(axes.get_xlim(), 0.5))


def test_many_iterations_of_several_seeds_are_smoothed(axes):
    """Against a mean that is written down: w = 40 // 10 iterations, fewer at the start."""
    returns = np.random.default_rng(0).normal(size=(40, 3, 2))
    mrl.plot.learning_curve({"return": returns, "iteration": np.arange(100, 140)}, axes)
    trailing = np.array([returns[max(0, i - 3) : i + 1].mean(0) for i in range(40)])
    drawn = lines(axes)
    for stage, name in enumerate(("before adaptation", "after 1 inner step")):
        np.testing.assert_array_equal(drawn[name].get_xdata(), np.arange(100, 140))
        np.testing.assert_allclose(drawn[name].get_ydata(), trailing[..., stage].mean(1), rtol=1e-12)
    faint = [line for line in axes.get_lines() if line.get_label()[0] == "_"]
    of_seeds = trailing.transpose(2, 1, 0).reshape(6, 40)
    for line, values in zip(faint, of_seeds, strict=True):
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-12)
    assert labels(axes)[2:] == ["faint: each of 3 seeds; bold: their mean", "mean of the last 4 iterations"]
    assert not axes.child_axes
    assert axes.get_ylabel() == "return per episode (undiscounted)"


def test_chunks_are_drawn_like_their_metrics_together():
    metrics = {"return": np.arange(10.0).reshape(5, 2), "environment_steps": np.arange(5)}
    parts = [{name: values[cut] for name, values in metrics.items()} for cut in (slice(0, 1), slice(1, 5))]
    state: Any = None  # nothing of it is drawn
    chunks = [Chunk(0, state, parts[0], 0.0), Chunk(1, state, parts[1], 0.0)]
    drawn = []
    for form in (metrics, parts, chunks, iter(chunks)):
        axes = mrl.plot.learning_curve(form, Figure().add_subplot())
        drawn.append([line.get_xydata() for line in axes.get_lines()])
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)


def test_adaptation_is_drawn_with_bands_of_one_standard_error(axes):
    rows = {"adapted": row(0), "random_init": row(1)}
    assert mrl.plot.adaptation_curve(rows, axes, horizon=7, title="$x", trained_episodes=5) is axes
    drawn = lines(axes)
    assert labels(axes) == [
        *("meta-trained", "random initialisation", "last stage in training"),
        "band: ± 1 standard error over tasks",
    ]
    for name, one, band in zip(drawn, rows.values(), axes.collections, strict=False):
        np.testing.assert_array_equal(drawn[name].get_xydata(), np.stack([[0, 5, 10], one.mean], 1))
        outline = band.get_paths()[0].vertices
        for x, mean, error in zip(one.episodes, one.mean, one.standard_error, strict=True):
            there = outline[outline[:, 0] == x, 1]
            np.testing.assert_allclose([there.min(), there.max()], [mean - error, mean + error], rtol=1e-12)
    assert len(axes.collections) == 2
    assert drawn["last stage in training"].get_xdata()[0] == 5
    assert axes.get_xlabel() == "episodes seen (5 per stage)"
    assert axes.get_title("left") == "$x"
    assert axes.get_ylabel() == "return per episode (7 steps, undiscounted)"


def test_one_row_and_rows_of_a_file_are_drawn_alike(axes):
    mrl.plot.adaptation_curve(row(2), axes)
    stored = mrl.plot.adaptation_curve({"adapted": _row(row(2))}, Figure().add_subplot(), seeds=2)
    for one, other in zip(lines(axes).values(), lines(stored).values(), strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())
    assert [labels(axes)[-1], labels(stored)[-1]] == [
        f"band: ± 1 standard error over {one}" for one in ("tasks", "seeds")
    ]


def test_rows_of_several_algorithms_have_names_and_colours(axes):
    rows = {"promp $": row(0), "rl2": row(1, stages=6, episodes=1), "random_init": row(2)}
    mrl.plot.adaptation_curve(rows, axes, trained_episodes=7)
    drawn = lines(axes)
    names = ["promp $", "rl2", "random initialisation", "last stage in training"]
    assert list(drawn) == names
    assert [to_rgba(drawn[name].get_color()) for name in names[:2]] == [to_rgba(color) for color in LINES[:2]]
    assert axes.get_xlabel() == "episodes seen"  # 5 per stage here, and 1 there
    np.testing.assert_array_equal(drawn["rl2"].get_xdata(), range(6))


def test_without_axes_a_figure_is_made():
    from matplotlib import pyplot

    made = [mrl.plot.adaptation_curve(row()), mrl.plot.learning_curve({"return": np.zeros((2, 2))})]
    assert made[0].figure is not made[1].figure
    for axes in made:
        pyplot.close(axes.figure)


@pytest.mark.parametrize(
    ("draw", "given", "message"),
    [
        ("learning_curve", {"loss": np.zeros(3)}, "metrics holds loss; it must hold 'return'"),
        ("learning_curve", 3, "metrics is of type int; it must hold 'return'"),
        ("learning_curve", [np.zeros(3)], "metrics is of type ndarray; it must hold 'return'"),
        ("learning_curve", [], "metrics is empty; hand in at least one chunk"),
        ("learning_curve", {"return": np.zeros(3)}, r"'return' has shapes \[3\]; they must be \[n, S\]"),
        ("learning_curve", {"return": np.zeros((0, 2))}, "metrics hold no iteration"),
        (
            "learning_curve",
            [{"return": np.zeros((1, 2))}, {"return": np.zeros((1, 3))}],
            r"shapes \[1, 2\], \[1, 3\]; they must .* in all chunks",
        ),
        (
            "learning_curve",
            {"return": np.zeros((3, 2)), "iteration": np.zeros(2)},
            "'iteration' has 2 entries, and 'return' has 3",
        ),
        ("adaptation_curve", {}, "rows is empty; it must be what metarl_jax.evaluation.evaluate returns"),
        ("adaptation_curve", [1.0], "rows is of type list; it must be what"),
        ("adaptation_curve", {"mine": np.zeros(3)}, "row 'mine' is of type ndarray, without episodes, mean"),
        (
            "adaptation_curve",
            {"mine": {"episodes": [0, 5], "mean": [1.0], "standard_error": [0.1, 0.1]}},
            r"row 'mine' has episodes \[2\], mean \[1\], standard_error \[2\]; they must have one entry",
        ),
    ],
)
def test_refusals(draw, given, message, axes):
    with pytest.raises(ValueError, match=message) as refusal:
        getattr(mrl.plot, draw)(given, axes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ax": "left"}, "ax is of type str; it must be one of Matplotlib's Axes, or None"),
        ({"horizon": 0.5}, "horizon is 0.5; it must be an integer"),
        ({"seeds": 0}, "seeds is 0; it must be an integer of at least 1"),
    ],
)
def test_refused_options(options, message, axes):
    with pytest.raises(ValueError, match=message):
        mrl.plot.adaptation_curve(row(), **{"ax": axes} | options)
