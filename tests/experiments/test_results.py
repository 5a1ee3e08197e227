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


def digits(numbers):
    return [f"{number:.1f}" for number in numbers]


def evaluations(folder):
    """Mean and standard error after each number of steps, of each evaluation of a folder, with the table's digits."""
    held = [json.loads(path.read_text())["rows"]["adapted"] for path in sorted((RESULTS / folder).glob("evaluation*"))]
    return [[*zip(digits(rows["mean"]), digits(rows["standard_error"]), strict=True)][:4] for rows in held]


def test_the_table_was_read():
    assert len(FOLDERS) >= 12


@pytest.mark.parametrize(("folder", "returns", "steps", "each"), FOLDERS, ids=[row[0] for row in FOLDERS])
def test_a_row_of_the_table(folder, returns, steps, each):
    said = RETURN.findall(returns)
    assert len(said) == 4
    assert said in evaluations(folder)
    with (RESULTS / folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    seeds = len({row["seed"] for row in rows}) if each else 1
    assert f"{sum(float(row['environment_steps']) for row in rows) / seeds / 1e6:.1f}" == steps
