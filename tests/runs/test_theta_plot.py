"""The picture of θ's path: a panel for every hyperparameter, and none where θ is something else."""

import numpy as np
import pytest

from metarl_jax import inner
from metarl_jax.runs.pictures import theta_plot


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_hyperparameter_has_its_panel(seeds, tmp_path, monkeypatch):
    assert tuple(theta_plot.HYPERPARAMETERS) == inner.HYPERPARAMETERS
    iterations = 4
    metrics = {"iteration": np.repeat(np.arange(iterations), seeds), "seed": np.tile(np.arange(seeds), iterations)}
    for scale, name in enumerate(inner.HYPERPARAMETERS, 1):
        metrics[name] = scale * (metrics["iteration"] + 10.0 * metrics["seed"])
    figures = []
    monkeypatch.setattr(theta_plot.Figure, "savefig", lambda figure, file, **_: figures.append(figure))
    assert theta_plot.hyperparameters(metrics, tmp_path / "x.png", title="t")
    for scale, axes in enumerate(figures[0].axes, 1):
        lines = [line.get_ydata() for line in axes.lines]
        assert len(lines) == (1 if seeds == 1 else seeds + 1)
        np.testing.assert_allclose(lines[-1], scale * (np.arange(iterations) + 10.0 * np.mean(np.arange(seeds))))
        assert axes.lines[-1].get_linewidth() > axes.lines[0].get_linewidth() or seeds == 1


def test_what_stays_has_no_panel(tmp_path, monkeypatch):
    metrics = {"iteration": np.arange(3), "seed": np.zeros(3)} | dict.fromkeys(inner.HYPERPARAMETERS, np.ones(3))
    assert not theta_plot.hyperparameters(metrics, tmp_path / "x.png", title="t")
    figures = []
    monkeypatch.setattr(theta_plot.Figure, "savefig", lambda figure, file, **_: figures.append(figure))
    assert theta_plot.hyperparameters(metrics | {"lambda_": np.arange(3.0)}, tmp_path / "x.png", title="t")
    assert [axes.get_title("left") for axes in figures[0].axes] == ["λ"]


def test_nothing_is_drawn_of_another_theta(tmp_path):
    metrics = {"iteration": np.arange(3), "seed": np.zeros(3), "discount": np.arange(3.0)}
    assert not theta_plot.hyperparameters(metrics, tmp_path / "x.png", title="t")
    assert list(tmp_path.iterdir()) == []
