"""Several devices, in processes of their own: eight_devices.py, four_devices.py and every_algorithm.py."""

import os
import pathlib
import subprocess
import sys

import pytest

import metarl_jax as mrl
from tests import rows

ROOT = pathlib.Path(__file__).resolve().parents[1]
SLOW = pytest.mark.slow


def run(number, arguments, **options):
    """A Python process with so many devices. What is waited for without end is killed and named by the time limit."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("number", "file", "which"),
    [
        (8, "eight_devices.py", "not slow"),
        rows.thorough(4, "four_devices.py", "not slow"),
        pytest.param(8, "eight_devices.py", "slow", marks=SLOW),
    ],
)
def test_of_several_devices(number, file, which):
    limit = ["-o", "faulthandler_timeout=150", "-o", "faulthandler_exit_on_timeout=true"]  # of each test
    result = run(number, ["-m", "pytest", "-v", "-n", "0", "-m", which, *limit, f"tests/{file}"], timeout=1800)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


UNFIT = {"rl2": "minibatches is 4", "rl2-hyper": "minibatches is 4", "self-tuning": "tasks is 1"}
"""algorithms whose own sizes 2 or 4 devices cannot share"""


@pytest.mark.parametrize(
    ("number", "seeds", "names", "unfit"),
    [
        rows.thorough(3, 3, ("maml", "maml-trpo", "reptile"), {}, id="3"),
        pytest.param(2, 1, mrl.algorithms.names(), UNFIT, id="2-all", marks=SLOW),
        pytest.param(3, 3, mrl.algorithms.names(), {}, id="3-all", marks=SLOW),
        pytest.param(4, 1, mrl.algorithms.names(), UNFIT, id="4-all", marks=SLOW),
    ],
)
def test_every_algorithm_with_its_own_defaults(number, seeds, names, unfit):
    result = run(number, ["-m", "tests.every_algorithm", str(seeds), *names])
    told = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": " in line)
    assert result.returncode == 0, f"after {result.stdout!r}: {result.stderr}"
    assert told.keys() == set(names)
    for name, line in told.items():
        assert line.startswith(unfit.get(name, "3 updates")), (name, line)
