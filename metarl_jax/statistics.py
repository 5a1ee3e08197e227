"""Statistics of returns over tasks and seeds, in NumPy."""

from typing import NamedTuple

import numpy as np


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean over axis 0 after dropping a quarter of the sorted values (rounded down) at each end."""
    ordered = np.sort(np.asarray(values), axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(0)


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


def iqm_interval(scores: np.ndarray, *, level: float = 0.95, draws: int = 2000) -> Interval:
    """Interquartile mean of all scores, with the percentile interval of a stratified bootstrap.

    Each draw resamples the R seeds with replacement, independently per task. So the interval is for repeating the R
    training runs on the same tasks, not for other tasks. The draws are the same in all calls and for all trailing axes,
    so curves on the same tasks can be compared.

    Agarwal, Schwarzer, Castro, Courville, Bellemare (2021, arXiv:2108.13264).

    Args:
        scores: [R, num_tasks, ...], with R ≥ 2 seeds.
        level: confidence level.
        draws: number of bootstrap samples.

    Returns:
        Leaves [...].

    Raises:
        ValueError: there are fewer than two seeds, or a score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim < 2 or len(scores) < 2:
        raise ValueError(f"scores has shape {scores.shape}; it must be [seeds, tasks, ...] with at least 2 seeds")
    if not np.isfinite(scores).all():
        raise ValueError("scores holds a NaN or infinity; leave out tasks that have no score")
    seeds, tasks = scores.shape[:2]

    def pooled(scores):
        return interquartile_mean(scores.reshape(seeds * tasks, *scores.shape[2:]))

    random = np.random.default_rng(0)
    resampled = [pooled(scores[random.integers(seeds, size=(seeds, tasks)), np.arange(tasks)]) for _ in range(draws)]
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(pooled(scores), low, high)


def standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over axis 0, from the unbiased variance."""
    values = np.asarray(values)
    return values.std(0, ddof=1) / np.sqrt(len(values))
