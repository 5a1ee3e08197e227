"""docs/own_parts.py, a run of own parts only: killed and started again it is the run that nobody killed."""

import csv
import json
import os
import runpy
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.test_packaging import ROOT

ITERATIONS = 20


def start(folder):
    command = [sys.executable, "docs/own_parts.py", str(folder), str(ITERATIONS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def table(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.thorough
def test_killed_and_started_again(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed)
    while not (killed / "checkpoints" / "10").exists():
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    again = start(killed)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors.decode()
    run = runpy.run_path(str(ROOT / "docs" / "own_parts.py"))["train"](whole, ITERATIONS)
    rows = table(whole)
    assert table(killed) == rows
    assert len(rows) == ITERATIONS
    assert float(rows[0]["outer_lr"]) == np.float32(3e-3) > float(rows[-1]["outer_lr"]), "its own schedule"
    pair = [json.loads((folder / "evaluation.json").read_text()) for folder in (killed, whole)]
    assert pair[0] == pair[1]
    assert run.params.statistics.observation.count == sum(float(row["environment_steps"]) for row in rows)
    occupied = run.params.statistics.observation.mean.sum()
    np.testing.assert_allclose(occupied, 1, rtol=1e-3)  # one bright pixel per picture
    out = run.algorithm.adapt(jax.random.key(0), run.params, run.env.sample_task(jax.random.key(1)))
    assert out.trajectory.observation.shape[-3:] == (8, 8, 1)
    np.testing.assert_allclose(out.trajectory.observation.sum((-3, -2, -1)), 1, rtol=1e-3)
