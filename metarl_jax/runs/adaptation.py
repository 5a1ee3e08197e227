"""How fast learners adapt, as numbers that can be compared across task families: statistics of a page's rows.

A row is a dictionary of JSON: `family`, `algorithm`, `episodes` [S], seen before each stage, and `per_task`
[R, num_tasks, S], the mean return of a stage in each held-out task by each of R training seeds. Families are put on one
scale: 0 is the untrained policy before adaptation and 1 the oracle, which sees the task.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.runs.comparisons import ORACLE

UNTRAINED = "random init"
"""the row of untrained parameters that adapt like the others"""


class Anchors(NamedTuple):
    """The two returns of a family that its scores lie between."""

    low: float
    """of untrained parameters before adaptation, mean over seeds and tasks"""
    high: float
    """of the oracle, likewise"""


def anchors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Anchors]:
    """Those of every family.

    Raises:
        ValueError: a family lacks one of the two rows, or its oracle is no better than nothing.
    """
    found = {}
    for family in dict.fromkeys(row["family"] for row in rows):
        first = {
            row["algorithm"]: np.mean(np.array(row["per_task"])[..., 0]) for row in rows if row["family"] == family
        }
        for name in (UNTRAINED, ORACLE):
            if name not in first:
                raise ValueError(f"{family} has no row {name!r}, so its scores have no scale; add it")
        low, high = float(first[UNTRAINED]), float(first[ORACLE])
        if high <= low:
            raise ValueError(f"the oracle of {family} returns {high:.4g}, no more than the untrained {low:.4g}")
        found[family] = Anchors(low, high)
    return found


def normalized(row: Mapping[str, Any], scale: Anchors) -> np.ndarray:
    """Scores [R, num_tasks, S]: 0 is untrained, 1 the oracle's mean; a task may be above or below."""
    return (np.array(row["per_task"], float) - scale.low) / (scale.high - scale.low)


def area(scores: np.ndarray) -> np.ndarray:
    """Area under the adaptation curve: the mean score of an episode over the trial, [...] of [..., S].

    A stage's score holds for its episodes, and all stages have equally many.
    """
    return np.asarray(scores).mean(-1)


def episodes_to(share: float, scores: np.ndarray, episodes: Sequence[int]) -> float:
    """Episodes seen until the mean score [S] first reaches `share`; infinite where it never does."""
    reached = np.flatnonzero(np.asarray(scores) >= share)
    return float(episodes[reached[0]]) if len(reached) else np.inf


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """P(X > Y) + ½ P(X = Y) for a random task and a random seed of each; scores are [R, num_tasks], [R', num_tasks].

    Agarwal et al. (2021, arXiv:2108.13264).
    """
    pairs = np.asarray(x)[:, None] - np.asarray(y)[None]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def profile(scores: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Performance profile: the share of seeds and tasks whose score [R, num_tasks] is above each threshold."""
    return (np.asarray(scores)[..., None] > np.asarray(thresholds)).mean((0, 1))


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One record for every learner's row.

    `start`, `end` and `area` are the IQM of the first stage, the last stage and the trial, with the ends of their
    intervals; `episodes_50` and `episodes_90` are None where the mean never gets there; the row's own times follow.

    Raises:
        ValueError: as `anchors`, or a row has fewer than two seeds.
    """
    from metarl_jax.evaluation import iqm_interval

    scales, records = anchors(rows), []
    for row in rows:
        if row["algorithm"] == ORACLE:
            continue
        scores = normalized(row, scales[row["family"]])
        curve = scores.mean((0, 1))
        stages = {"start": scores[..., 0], "end": scores[..., -1], "area": area(scores)}
        record: dict[str, Any] = {
            name: [round(float(end), 4) for end in iqm_interval(values)] for name, values in stages.items()
        }
        for percent in (50, 90):
            needed = episodes_to(percent / 100, curve, row["episodes"])
            record[f"episodes_{percent}"] = None if np.isinf(needed) else int(needed)
        own = {name: row.get(name) for name in ("ms_per_stage", "ms_per_action", "minutes", "source")}
        records.append({"family": row["family"], "algorithm": row["algorithm"]} | record | own)
    return records


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as a page, family by family, the largest area first."""

    def interval(values):
        return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"

    def known(value, form):
        return "–" if value is None else form.format(value)

    lines = []
    for family in dict.fromkeys(record["family"] for record in records):
        lines += [
            f"### {family}",
            "",
            "| learner | at once | in the end | area | episodes to 50 % | 90 % | ms a stage | ms an action | minutes |",
            "| --- " * 9 + "|",
        ]
        for record in sorted((r for r in records if r["family"] == family), key=lambda r: -r["area"][0]):
            cells = [f"`{record['algorithm']}`", *(interval(record[name]) for name in ("start", "end", "area"))]
            cells += [known(record[f"episodes_{percent}"], "{}") for percent in (50, 90)]
            cells += [known(record["ms_per_stage"], "{:.1f}"), known(record["ms_per_action"], "{:.3f}")]
            lines.append(f"| {' | '.join([*cells, known(record['minutes'], '{:.1f}')])} |")
        lines.append("")
    return "\n".join(lines)


def improvements(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """P(row better than column) of the area, mean over the families that both are in."""
    scales = anchors(rows)
    areas: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        if row["algorithm"] != ORACLE:
            scores = area(normalized(row, scales[row["family"]]))
            areas.setdefault(row["algorithm"], {})[row["family"]] = scores
    found: dict[str, dict[str, float]] = {}
    for x, of_x in areas.items():
        for y, of_y in areas.items():
            both = [f for f in of_x if f in of_y and of_x[f].shape[1] == of_y[f].shape[1]]
            if x != y and both:
                chances = [probability_of_improvement(of_x[f], of_y[f]) for f in both]
                found.setdefault(x, {})[y] = round(float(np.mean(chances)), 3)
    return found


def check_row(row: Any, source: str) -> dict[str, Any]:
    """A row that somebody else made, whole.

    Raises:
        ValueError: it lacks a field, or its numbers do not fit together.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{source} holds {row!r} for a row; it must be an object")
    for field in ("family", "algorithm", "episodes", "per_task"):
        if field not in row:
            raise ValueError(f"a row of {source} has no {field!r}; see metarl_jax.runs.adaptation")
    try:
        scores = np.array(row["per_task"], float)
    except (ValueError, TypeError) as error:
        raise ValueError(f"per_task of {row['algorithm']!r} in {source} is no array: {error}") from error
    if scores.ndim != 3 or scores.shape[-1] != len(row["episodes"]) or not np.isfinite(scores).all():
        raise ValueError(
            f"per_task of {row['algorithm']!r} in {source} has shape {scores.shape}; it must be [seeds, tasks, "
            f"{len(row['episodes'])}], one number per entry of episodes, all of them finite"
        )
    return row
