"""Statistics of adaptation speed that are comparable across task families.

A row is a JSON object: `family`, `algorithm`, `episodes` [S], the number before each stage, and `per_task`
[R, num_tasks, S], the mean return of a stage in each held-out task for each of R training seeds. Returns are scaled so
that 0 is the untrained policy before adaptation and 1 the oracle, which observes the task.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metarl_jax.runs.evaluation.comparisons import ORACLE

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


def _ends(rows: Sequence[Mapping[str, Any]]) -> dict[str, Anchors]:
    by_family = {}
    for family in dict.fromkeys(row["family"] for row in rows):
        first = {
            row["algorithm"]: np.mean(np.array(row["per_task"])[..., 0]) for row in rows if row["family"] == family
        }
        for name in (UNTRAINED, ORACLE):
            if name not in first:
                raise ValueError(f"{family} has no row {name!r}, so its scores have no scale; add it")
        by_family[family] = Anchors(float(first[UNTRAINED]), float(first[ORACLE]))
    return by_family


def unscaled(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Why a family has no scale, for each that has none: its oracle is not better than the untrained policy.

    That is a result, and no fault of the rows: an oracle too may fail outside of its training distribution.

    Raises:
        ValueError: a family lacks one of the two rows.
    """
    return {
        family: f"{family} has no scale: its oracle returns {high:.4g}, no more than the untrained {low:.4g}"
        for family, (low, high) in _ends(rows).items()
        if high <= low
    }


def anchors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Anchors]:
    """The anchors of each family that has a scale, see `unscaled`.

    Raises:
        ValueError: a family lacks one of the two rows, or no family has a scale.
    """
    without = unscaled(rows)
    found = {family: ends for family, ends in _ends(rows).items() if family not in without}
    if without and not found:
        raise ValueError("; ".join(without.values()))
    return found


def normalized(row: Mapping[str, Any], scale: Anchors) -> np.ndarray:
    """Scores [R, num_tasks, S]: 0 is untrained, 1 the oracle's mean; single tasks may be outside [0, 1]."""
    return (np.array(row["per_task"], float) - scale.low) / (scale.high - scale.low)


def area(scores: np.ndarray) -> np.ndarray:
    """Area under the adaptation curve: the mean score of an episode over the trial, [...] of [..., S].

    All episodes of a stage have the same score, and all stages have the same number of episodes.
    """
    return np.asarray(scores).mean(-1)


def episodes_to(share: float, scores: np.ndarray, episodes: Sequence[int]) -> float:
    """Number of episodes before the first stage whose mean score [S] reaches `share`; infinite if there is none."""
    reached = np.flatnonzero(np.asarray(scores) >= share)
    return float(episodes[reached[0]]) if len(reached) else np.inf


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
    """One record per row, except for the oracle and for families without a scale.

    `start`, `end` and `area` are the IQMs of the first stage, the last stage and the trial, with their intervals.
    `episodes_50` and `episodes_90` are the episodes before the mean reaches that score, None if it never does;
    `seconds_50` and `seconds_90` are what these stages take, None also for a row without times. The row's times follow.

    Raises:
        ValueError: as `anchors`, or a row has fewer than two seeds.
    """
    from metarl_jax.evaluation import iqm_interval

    scales, records = anchors(rows), []
    for row in rows:
        if row["algorithm"] == ORACLE or row["family"] not in scales:
            continue
        scores = normalized(row, scales[row["family"]])
        curve, each = scores.mean((0, 1)), row.get("ms_per_stage")
        stages = {"start": scores[..., 0], "end": scores[..., -1], "area": area(scores)}
        record: dict[str, Any] = {
            name: [round(float(end), 4) for end in iqm_interval(values)] for name, values in stages.items()
        }
        for percent in (50, 90):
            needed = episodes_to(percent / 100, curve, row["episodes"])
            reached = None if np.isinf(needed) else int(needed)
            record[f"episodes_{percent}"] = reached
            known = reached is not None and each is not None
            record[f"seconds_{percent}"] = 1e-3 * each * list(row["episodes"]).index(reached) if known else None
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

    lines = []
    for family in dict.fromkeys(record["family"] for record in records):
        lines += [
            f"### {family}",
            "",
            "| learner | at once | in the end | area | episodes to 50 % | 90 % | seconds to 50 % | 90 % | ms a stage "
            "| ms an action | minutes |",
            "| --- " * 11 + "|",
        ]
        for record in sorted((r for r in records if r["family"] == family), key=lambda r: -r["area"][0]):
            cells = [f"`{record['algorithm']}`", *(interval(record[name]) for name in ("start", "end", "area"))]
            cells += [text_of(record[f"episodes_{percent}"], "{}") for percent in (50, 90)]
            cells += [text_of(record[f"seconds_{percent}"], "{:.3g}") for percent in (50, 90)]
            cells += [text_of(record["ms_per_stage"], "{:.1f}"), text_of(record["ms_per_action"], "{:.3f}")]
            lines.append(f"| {' | '.join([*cells, text_of(record['minutes'], '{:.1f}')])} |")
        lines.append("")
    return "\n".join(lines)


def improvements(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """P(row better than column) in terms of area, averaged over the families of both."""
    scales = anchors(rows)
    areas: dict[str, dict[str, np.ndarray]] = {}
    for row in rows:
        if row["algorithm"] != ORACLE and row["family"] in scales:
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
