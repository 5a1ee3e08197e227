"""The tables of stored results say what the files beside them hold."""

import csv
import json
import re
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
TEXT = (RESULTS / "README.md").read_text(encoding="utf-8").replace("−", "-").replace("*", "")
FOLDERS = re.findall(r"^\| `([\w-]+)` \| (-?\d[^|]*) \| ([\d.]+) M( a seed)? \|", TEXT, re.MULTILINE)
RETURN = re.compile(r"(-?\d+\.\d) ± (\d+\.\d)")


def evaluations(folder):
    """Mean and standard error after each number of steps, of each evaluation of a folder."""
    held = [json.loads(path.read_text())["rows"]["adapted"] for path in sorted((RESULTS / folder).glob("evaluation*"))]
    return [[*zip(rows["mean"], rows["standard_error"], strict=True)] for rows in held]


def test_the_table_was_read():
    assert len(FOLDERS) >= 12


@pytest.mark.parametrize(("folder", "returns", "steps", "each"), FOLDERS, ids=[row[0] for row in FOLDERS])
def test_a_row_of_the_table(folder, returns, steps, each):
    said = [(float(mean), float(error)) for mean, error in RETURN.findall(returns)]
    assert len(said) == 4
    assert any(
        all(abs(x - y) <= 0.051 for pair in zip(said, found[:4], strict=True) for x, y in zip(*pair, strict=True))
        for found in evaluations(folder)
    ), [found[:4] for found in evaluations(folder)]
    with (RESULTS / folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    seeds = len({row["seed"] for row in rows}) if each else 1
    assert sum(float(row["environment_steps"]) for row in rows) / seeds / 1e6 == pytest.approx(float(steps), abs=0.051)
