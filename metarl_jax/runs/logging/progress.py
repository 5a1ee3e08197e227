"""Progress of a training run: a live bar on a terminal, or occasional lines in a log file."""

import math
import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metarl_jax.runs.console import talk

_LINE_EVERY = 15.0  # seconds between lines without a terminal


def quantity(value: float) -> str:
    """Three significant digits with a unit prefix: 1234 → "1.23 k"."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


def mean_of_finite(values: np.ndarray) -> float:
    """Mean over the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else math.nan


def duration(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class TrainingProgress:
    """Context manager that shows iterations, time left, return before → after adaptation, and steps per second."""

    def __init__(self, console: Console, start: int, iterations: int):
        self._console, self._start, self._iterations = console, start, iterations
        self._begin = self._last_line = self._clock = time.monotonic()
        self._warm = start  # iterations done when timing started, after compilation
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", style="dim", markup=False),
            TextColumn("{task.fields[status]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=iterations, completed=start, status="compiling …", left="time left unknown"
        )

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def update(self, done: int, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Updates the display after a chunk.

        Args:
            done: iterations done, including those before a resume.
            metrics: metrics of the chunk, leaves [n, ...].
            seconds: duration of the chunk.
        """
        now, status = time.monotonic(), ""
        if "return" in metrics:
            returns = np.asarray(metrics["return"], float)
            means = [mean_of_finite(stage) for stage in (returns[..., 0], returns[..., -1])]
            status = f"return {means[0]:.4g} → {means[1]:.4g}"
        if "environment_steps" in metrics and self._warm > self._start:
            status += f", {quantity(float(np.sum(metrics['environment_steps'])) / seconds)} steps/s"
        if "diverged_episodes" in metrics and np.sum(metrics["diverged_episodes"]):
            status += f", {quantity(float(np.sum(metrics['diverged_episodes'])))} episodes diverged"
        if "nonfinite" in metrics and np.sum(metrics["nonfinite"]):
            status += f", {quantity(float(np.sum(metrics['nonfinite'])))} updates undone"
        left = ""
        if self._warm > self._start and done > self._warm:
            left = f"{duration((now - self._clock) / (done - self._warm) * (self._iterations - done))} left"
        elif self._warm == self._start:  # the first chunk includes compilation
            self._warm, self._clock = done, now
            left = f"first iteration after {now - self._begin:.1f} s"
        self._bar.update(self._task, completed=done, status=status, left=left)
        due = now - self._last_line >= _LINE_EVERY or self._warm == done or done >= self._iterations
        if not self._console.is_terminal and due:
            self._last_line = now
            parts = [f"iteration {done}/{self._iterations}", f"{duration(now - self._begin)} elapsed", left, status]
            talk.line(self._console, "  ".join(part for part in parts if part))
