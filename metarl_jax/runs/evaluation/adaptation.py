"""Statistics of adaptation speed that are comparable across task families.

A row is a JSON object: `family`, `algorithm`, `episodes` [S], the number before each stage, and `per_task`
[R, num_tasks, S], the mean return of a stage in each held-out task for each of R training seeds. Returns are scaled so
that 0 is the untrained policy before adaptation and 1 the oracle, which observes the task.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.runs.evaluation.comparisons import ORACLE
from metarl_jax.runs.evaluation.markdown import table as markdown_table

UNTRAINED = "random init"
"""name of the row with untrained parameters, which adapt like the others"""


class Anchors(NamedTuple):
    """The two returns of a family that define its scale."""

    low: float
    """return of untrained parameters before adaptation, mean over seeds and tasks"""
    high: float
    """return of the oracle, mean over seeds and tasks"""


_OOD = ", ood"


def ood(family: str) -> str:
    """The name of a family in rows whose tasks are outside of the training distribution."""
    return family + _OOD


def is_ood(family: str) -> bool:
    """Whether a row's family is a name by `ood`."""
    return family.endswith(_OOD)


def finite(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows in which each stage has a score, and a sentence on each of the others, of which some episode is void."""
    sound, reasons = [], []
    for row in rows:
        if np.isfinite(np.array(row["per_task"], float)).all():
            sound.append(row)
        else:
            reasons.append(f"{row['algorithm']!r} on {row['family']!r} is left out: a stage has no score")
    return sound, reasons


def _ends(rows: Sequence[Mapping[str, Any]], family: str) -> Anchors:
    first = {row["algorithm"]: np.mean(np.array(row["per_task"])[..., 0]) for row in rows if row["family"] == family}
    for name in (UNTRAINED, ORACLE):
        if name not in first:
            raise ValueError(f"{family} has no row {name!r}, so its scores have no scale; add it")
    low, high = float(first[UNTRAINED]), float(first[ORACLE])
    if not high > low:
        raise ValueError(f"{family} has no scale: its oracle returns {high:.4g}, no more than the untrained {low:.4g}")
    return Anchors(low, high)


def _families(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["family"] for row in rows))


def anchors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Anchors]:
    """The anchors of each family.

    Raises:
        ValueError: a family lacks one of the two rows, or its oracle is not better than the untrained policy.
    """
    return {family: _ends(rows, family) for family in _families(rows)}


def scaled(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows of families that have `anchors`, and a sentence on each of the others.

    An oracle that is not better than the untrained policy is a result, and no fault of the rows: it too may fail
    outside of its training distribution.
    """
    reasons = {}
    for family in _families(rows):
        try:
            _ends(rows, family)
        except ValueError as error:
            reasons[family] = str(error)
    return [row for row in rows if row["family"] not in reasons], list(reasons.values())


def normalized(row: Mapping[str, Any], scale: Anchors) -> np.ndarray:
    """Scores [R, num_tasks, S]: 0 is untrained, 1 the oracle's mean; single tasks may be outside [0, 1]."""
    return (np.array(row["per_task"], float) - scale.low) / (scale.high - scale.low)


def area(scores: np.ndarray) -> np.ndarray:
    """Area under the adaptation curve: the mean score of an episode over the trial, [...] of [..., S].

    All episodes of a stage have the same score, and all stages have the same number of episodes.
    """
    return np.asarray(scores).mean(-1)


def stage_of(share: float, scores: np.ndarray) -> int | None:
    """The first stage whose mean score [S] reaches `share`; None if there is none."""
    reached = np.flatnonzero(np.asarray(scores) >= share)
    return int(reached[0]) if len(reached) else None


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """P(X > Y) + ½ P(X = Y) for a random task and random seeds; scores are [R, num_tasks], [R', num_tasks].

    Agarwal et al. (2021, arXiv:2108.13264).
    """
    pairs = np.asarray(x)[:, None] - np.asarray(y)[None]
    return float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def profile(scores: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Performance profile: the fraction of seeds and tasks whose score [R, num_tasks] exceeds each threshold."""
    return (np.asarray(scores)[..., None] > np.asarray(thresholds)).mean((0, 1))


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One record per row, except for the oracle.

    `start`, `end` and `area` are the IQMs of the first stage, the last stage and the trial, with their intervals.
    `episodes_50` and `episodes_90` are the episodes before the mean reaches that score, None if it never does;
    `seconds_50` and `seconds_90` are what these stages take, None also for a row without times. The row's times follow.

    Raises:
        ValueError: as `anchors`, or a row has fewer than two seeds.
    """
    from metarl_jax.evaluation import iqm_interval

    scales, records = anchors(rows), []
    for row in rows:
        if row["algorithm"] == ORACLE:
            continue
        scores = normalized(row, scales[row["family"]])
        curve, each = scores.mean((0, 1)), row.get("ms_per_stage")
        stages = {"start": scores[..., 0], "end": scores[..., -1], "area": area(scores)}
        record: dict[str, Any] = {
            name: [round(float(end), 4) for end in iqm_interval(values)] for name, values in stages.items()
        }
        for percent in (50, 90):
            stage = stage_of(percent / 100, curve)
            record[f"episodes_{percent}"] = None if stage is None else int(row["episodes"][stage])
            record[f"seconds_{percent}"] = None if stage is None or each is None else 1e-3 * each * stage
        extra = {name: row.get(name) for name in ("ms_per_stage", "ms_per_action", "minutes", "source")}
        records.append({"family": row["family"], "algorithm": row["algorithm"]} | record | extra)
    return records


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as Markdown, one table per family, the largest area first."""

    def interval(values):
        middle, low, high = (f"{round(value, 2) + 0.0:.2f}" for value in values)  # no "-0.00"
        return f"{middle} ({low} to {high})"

    def text_of(value, form):
        return "–" if value is None else form.format(value)

    header = ["learner", "at once", "in the end", "area", "episodes to 50 %", "90 %", "seconds to 50 %", "90 %"]
    header += ["ms a stage", "ms an action", "minutes"]
    lines = []
    for family in dict.fromkeys(record["family"] for record in records):
        rows = []
        for record in sorted((r for r in records if r["family"] == family), key=lambda r: -r["area"][0]):
            cells = [f"`{record['algorithm']}`", *(interval(record[name]) for name in ("start", "end", "area"))]
            cells += [text_of(record[f"episodes_{percent}"], "{}") for percent in (50, 90)]
            cells += [text_of(record[f"seconds_{percent}"], "{:.3g}") for percent in (50, 90)]
            cells += [text_of(record["ms_per_stage"], "{:.1f}"), text_of(record["ms_per_action"], "{:.3f}")]
            rows.append([*cells, text_of(record["minutes"], "{:.1f}")])
        lines += [f"### {family}", "", markdown_table(header, rows), ""]
    return "\n".join(lines)


def improvements(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """P(row better than column) in terms of area, averaged over the families of both."""
    scales = anchors(rows)
    areas: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        if row["algorithm"] != ORACLE:
            scores = area(normalized(row, scales[row["family"]]))
            areas.setdefault(row["algorithm"], {})[row["family"]] = scores
    result: dict[str, dict[str, float]] = {}
    for x, of_x in areas.items():
        for y, of_y in areas.items():
            both = [f for f in of_x if f in of_y and of_x[f].shape[1] == of_y[f].shape[1]]
            if x != y and both:
                chances = [probability_of_improvement(of_x[f], of_y[f]) for f in both]
                result.setdefault(x, {})[y] = round(float(np.mean(chances)), 3)
    return result


def check_row(row: Any, source: str) -> dict[str, Any]:
    """Validates a row from an external file and returns it.

    Raises:
        ValueError: it lacks a field, or its values are inconsistent.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{source} holds {row!r} for a row; it must be an object")
    for field in ("family", "algorithm", "episodes", "per_task"):
        if field not in row:
            raise ValueError(f"a row of {source} has no {field!r}; see metarl_jax.runs.evaluation.adaptation")
    for field in ("family", "algorithm"):
        if not isinstance(row[field], str):
            raise ValueError(f"{field} is {row[field]!r} in a row of {source}; it must be a name")
    who, episodes = f"{row['algorithm']!r} in {source}", row["episodes"]
    numbers = isinstance(episodes, list) and all(type(count) is int and count >= 0 for count in episodes)
    if not numbers or not episodes or (np.diff(episodes) <= 0).any():
        raise ValueError(f"episodes of {who} is {episodes!r}; it must be ascending integers, one per stage")
    if len(set(np.diff(episodes))) > 1:
        raise ValueError(f"episodes of {who} is {episodes!r}; all stages must have the same number of episodes")
    for field in ("minutes", "ms_per_stage", "ms_per_action"):
        if not isinstance(row.get(field), int | float | None) or isinstance(row.get(field), bool):
            raise ValueError(f"{field} of {who} is {row[field]!r}; it must be a number, or left out")
    try:
        scores = np.array(row["per_task"], float)
    except (ValueError, TypeError) as error:
        raise ValueError(f"per_task of {who} is no array: {error}") from error
    sizes = scores.ndim == 3 and len(scores) >= 2 and scores.shape[1] >= 1 and scores.shape[2] == len(episodes)
    if not sizes or not np.isfinite(scores).all():
        raise ValueError(
            f"per_task of {who} has shape {scores.shape}; it must be [seeds, tasks, {len(episodes)}], of two seeds or "
            "more and with one number per entry of episodes, all of them finite"
        )
    return row
