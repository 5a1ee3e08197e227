"""What docs/trust.md says: opening a run folder runs nothing of it, and what is written is as private as the mask."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from metarl_jax.runs import config as configs
from metarl_jax.runs import run as runs
from metarl_jax.runs.config import Built
from tests.runs.conftest import shared_stub
from tests.runs.stub import make, stub_env
from tests.runs.trusting import spoil

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust") / "run"
    algorithm = shared_stub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configs, "build", lambda config, **_: Built(stub_env(), algorithm))
        runs.train_run(make(folder), Console(file=io.StringIO()))
    spoil(folder)
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs.trusting", folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_in_a_run_folder_is_unpickled_imported_or_run(ran):
    assert ran["the library"] == []


def test_a_reader_that_trusts_a_folder_would_be_noticed(ran):
    for name, found in ran.items():
        if name != "the library":
            assert any(event.startswith(name.split()[0]) for event in found), (name, found)


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
@pytest.mark.usefixtures("stub")
def test_files_are_as_private_as_the_mask_says(tmp_path, console, mask):
    before = os.umask(mask)
    try:
        runs.train_run(make(tmp_path / "run", iterations=4), console)
    finally:
        os.umask(before)
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, f"{path}: {mode:o} under {mask:03o}"
