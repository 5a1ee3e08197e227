"""What a person sees while a run trains: a live bar on a terminal, a line now and then in a log file."""

import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metarl_jax.runs import talk

_LINE_EVERY = 15.0  # seconds between lines where there is no terminal


def quantity(value: float) -> str:
    """Three significant digits with a unit prefix: 1234 → "1.23 k"."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class TrainingProgress:
    """Iterations, time left, return before → after adaptation, environment steps per second. A context manager."""

    def __init__(self, console: Console, start: int, iterations: int):
        self._console, self._start, self._iterations = console, start, iterations
        self._begin = self._last_line = self._clock = time.monotonic()
        self._warm = start  # iterations done when the clock for the time left started, after compilation
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
        """After a chunk.

        Args:
            done: iterations done, those before a resume included.
            metrics: of the chunk; leaves [n, ...].
            seconds: what the chunk took.
        """
        now, status = time.monotonic(), ""
        if "return" in metrics:
            returns = np.asarray(metrics["return"], float)
            returns = np.nanmean(returns.reshape(-1, returns.shape[-1]), 0)  # over iterations, and over seeds
            status = f"return {returns[0]:.4g} → {returns[-1]:.4g}"
        if "environment_steps" in metrics and self._warm > self._start:
            status += f", {quantity(float(np.sum(metrics['environment_steps'])) / seconds)} steps/s"
        if "diverged_episodes" in metrics and np.sum(metrics["diverged_episodes"]):
            status += f", {quantity(float(np.sum(metrics['diverged_episodes'])))} episodes diverged"
        if "nonfinite" in metrics and np.sum(metrics["nonfinite"]):
            status += f", {quantity(float(np.sum(metrics['nonfinite'])))} updates undone"
        left = ""
        if self._warm > self._start and done > self._warm:
            left = f"{duration((now - self._clock) / (done - self._warm) * (self._iterations - done))} left"
        elif self._warm == self._start:  # the first chunk compiled
            self._warm, self._clock = done, now
            left = f"first iteration after {now - self._begin:.1f} s"
        self._bar.update(self._task, completed=done, status=status, left=left)
        due = now - self._last_line >= _LINE_EVERY or self._warm == done or done >= self._iterations
        if not self._console.is_terminal and due:
            self._last_line = now
            parts = [f"iteration {done}/{self._iterations}", f"{duration(now - self._begin)} elapsed", left, status]
            talk.line(self._console, "  ".join(part for part in parts if part))
