"""The fault campaign on real processes, which takes minutes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_no_fault_loses_a_run(tmp_path):
    """Kills, signals, damaged files, full disks, several writers, NaN; see benchmarks/faults.py for what must hold."""
    output = tmp_path / "faults.json"
    command = [sys.executable, "benchmarks/faults.py", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(output.read_text(encoding="utf-8"))
    assert figures["failed"] == 0
    assert len(figures["outcomes"]) > 50
