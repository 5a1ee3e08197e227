"""benchmarks/faults.py is a check that can fail: what it compares with notices differences, and it tells of them."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import fault_cases, fault_runs, fault_tools
from metarl_jax.guard import guarded
from tests.runs.stub import stub_algorithm

ROOT = Path(__file__).parents[2]


def test_a_fingerprint_notices_every_bit():
    tree = {"a": jnp.array([1.0, 2.0]), "b": jnp.int32(3)}
    same = fault_tools.fingerprint({"b": np.int32(3), "a": np.array([1.0, 2.0], np.float32)})
    assert fault_tools.fingerprint(tree) == same
    others = [
        tree | {"a": jnp.nextafter(tree["a"], 9.0)},
        tree | {"a": tree["a"][:, None]},
        tree | {"b": jnp.int8(3)},
        tree | {"a": -0.0 * tree["a"]},
        tree | {"a": 0.0 * tree["a"]},
    ]
    assert len({same, *map(fault_tools.fingerprint, others)}) == 1 + len(others)


def test_what_must_be_equal_is_all_that_determines_later_numbers():
    state = guarded(stub_algorithm().init(jax.random.key(0)))
    start = fault_tools.fingerprint(fault_tools.essence(state))
    memory = state.opt_state
    for other in (
        state.replace(params=jax.tree.map(lambda leaf: leaf + 1, state.params)),
        state.replace(iteration=state.iteration + 1),
        state.replace(opt_state=memory.replace(opt_state=jax.tree.map(lambda leaf: leaf + 1, memory.opt_state))),
    ):
        assert fault_tools.fingerprint(fault_tools.essence(other)) != start
    elsewhere = state.replace(opt_state=memory.replace(anchor=jax.tree.map(jnp.ones_like, memory.anchor)))
    assert fault_tools.fingerprint(fault_tools.essence(elsewhere)) == start


def test_numbers_that_are_not_finite_are_noticed():
    assert fault_tools.finite({"a": np.ones(3), "b": np.int32(1)})
    assert not fault_tools.finite({"a": np.array([1.0, np.nan])})
    assert not fault_tools.finite({"a": np.array([1.0, np.inf])})


def test_what_is_on_disk_is_compared_as_it_is(tmp_path):
    (tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir(parents=True)
    assert (fault_runs.rows(tmp_path), len(fault_runs.unfinished(tmp_path))) == (0, 1)
    (tmp_path / "metrics.csv").write_text("iteration,loss\n0,0.5\n1,0.2")
    assert fault_runs.rows(tmp_path) == 1, "a row without its end is none"
    before = fault_runs.snapshot(tmp_path)
    (tmp_path / "lock").write_text("7")
    assert fault_runs.snapshot(tmp_path) == before
    for how in fault_cases.DAMAGES:
        (tmp_path / "metrics.csv").write_bytes(before["metrics.csv"])
        fault_cases.damage(tmp_path / "metrics.csv", how)
        assert fault_runs.snapshot(tmp_path) != before


def test_what_was_not_kept_is_told(tmp_path):
    promise = fault_runs.Promises()
    program = "import sys; print('one line', file=sys.stderr); sys.exit(3)"
    environment = {"PATH": ""}
    promise.ended(fault_runs.Run([sys.executable, "-c", program], environment, tmp_path / "a"), 3, "one line")
    assert not promise.broken
    promise.ended(fault_runs.Run([sys.executable, "-c", program], environment, tmp_path / "b"), 0, "two")
    assert [text.split(":")[0] for text in promise.broken] == [
        "status 3 instead of 0",
        "1 lines on stderr",
        "stderr does not say 'two'",
    ]
    assert fault_tools.Outcome("fault", "when", "nothing", True, True).passed
    assert not fault_tools.Outcome("fault", "when", "nothing", False, True).passed
    assert not fault_tools.Outcome("fault", "when", "nothing", True, False).passed
    assert not fault_tools.Outcome("fault", "when", "nothing", True, True, tuple(promise.broken)).passed


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    output = tmp_path / "faults.json"
    command = [sys.executable, "benchmarks/faults.py", "--only", "writers", "nan", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(output.read_text())["outcomes"]
    assert len(outcomes) == 6
    assert not any(outcome["problems"] for outcome in outcomes)
