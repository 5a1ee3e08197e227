"""Jobs of two real processes over loopback, each with two devices; `tests.runs.job` is what they run."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from metarl_jax.runs.cluster import distributed
from tests.runs import job

ROOT = Path(__file__).parents[2]
LIMIT = 120  # seconds after which a test gives up on a process; none should take a fifth of it


@pytest.fixture
def start(tmp_path):
    """Starts processes of one job; what is left of them is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}

    def process(index, mode, *arguments):
        command = [sys.executable, "-m", "tests.runs.job", address, "2", str(index), mode, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
        return started[-1]

    yield process
    for left in started:
        left.kill()
        left.communicate()


def ended(process):
    """Its exit status and what it said."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def kill_one(start, mode, victim, number):
    """Stops one of two processes for good, once both are at it; returns what the survivor said and when it ended."""
    processes = [start(0, mode), start(1, mode)]
    for process in processes:
        while "ready" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
    time.sleep(0.5)
    processes[victim].send_signal(number)
    began = time.monotonic()
    status, _, err = ended(processes[1 - victim])
    return status, err, time.monotonic() - began


def check_survivor(status, err, seconds):
    assert status == 1
    last = [line for line in err.splitlines() if line.startswith("error: ")][-1]  # JAX's own threads may log after it
    assert last.startswith("error: another process of this job has ended or cannot be reached")
    assert "--resume" in last
    assert seconds < LIMIT / 2, "JAX's own limit is 100 s; the job's is job.SILENCE"


@pytest.mark.thorough
def test_two_processes_do_what_one_does(start, tmp_path):
    files = [tmp_path / "0.npz", tmp_path / "1.npz"]
    processes = [start(i, "train", file) for i, file in enumerate(files)]
    for process in processes:
        status, _, err = ended(process)
        assert status == 0, err
    a, b = (dict(np.load(file)) for file in files)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert a["lengths"].tolist() == [1, 2, 3], "process 0's chunks, until a signal to process 1 stopped both"
    assert str(a["error"]) == "the disk is full"
    assert a["spread"], "the gathered array was not spread over processes"

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("groups",))
    theta, returns = job.initial(mesh), []
    for i in range(job.STOP_AT):
        theta, group_returns = job.update(jax.random.fold_in(jax.random.key(1), i), theta, mesh)
        returns.append(np.asarray(group_returns))
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(theta)]
    np.testing.assert_allclose(a["theta"], np.concatenate(leaves), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(a["returns"], np.stack(returns), rtol=1e-4, atol=1e-4)


def test_the_survivor_of_a_killed_coordinator_ends(start):
    check_survivor(*kill_one(start, "together", 0, signal.SIGKILL))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["together", "local"])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_survivor_ends_whatever_both_were_doing(start, mode, victim, number):
    """A process that is stopped and not killed is what the other end of a broken network looks like."""
    check_survivor(*kill_one(start, mode, victim, number))


@pytest.mark.slow
def test_a_bug_in_one_process_ends_the_other_too(start):
    processes = [start(0, "fail"), start(1, "fail")]
    began = time.monotonic()
    status, _, err = ended(processes[0])
    check_survivor(status, err, time.monotonic() - began)
    status, _, err = ended(processes[1])
    assert status == 1
    assert err.splitlines()[-1] == "ZeroDivisionError: a bug that only process 1 has"


def test_an_error_of_the_writer_ends_all_alike(start):
    for process in [start(0, "refuse"), start(1, "refuse")]:
        status, _, err = ended(process)
        assert (status, err.splitlines()[-1]) == (2, "error: the folder is locked")


@pytest.mark.slow
def test_all_wait_for_the_writer_at_the_end(start):
    processes = [start(i, "evaluate", 8) for i in range(2)]
    began = time.monotonic()
    for process in processes:
        assert ended(process)[0] == 0
        assert time.monotonic() - began > 8


def test_a_process_that_meets_nobody_ends(start):
    status, _, err = ended(start(1, "meet"))
    assert status == 2
    (line,) = err.splitlines()
    assert "was not reached within 1 s" in line


@pytest.mark.slow
def test_a_coordinator_that_meets_nobody_ends(start):
    status, _, err = ended(start(0, "meet"))
    assert status == 1
    assert "not all processes of the job met at 127.0.0.1:" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("node1:80", None, None), "--num-processes and --process-id not given; a job needs all of --coordinator"),
        ((None, 2, 0), "--coordinator not given"),
        (("node1", 2, 0), "--coordinator is 'node1'; it must be HOST:PORT, such as node1:12345"),
        ((":80", 2, 0), "--coordinator is ':80'"),
        (("node1:", 2, 0), "--coordinator is 'node1:'"),
        (("node1:0", 2, 0), "--coordinator is 'node1:0'"),
        (("node1:65536", 2, 0), "--coordinator is 'node1:65536'"),
        (("node1:80", 0, 0), "--num-processes is 0; it must be at least 1"),
        (("node1:80", 2, 2), "--process-id is 2; with --num-processes 2 it must be 0 to 1, each once"),
        (("node1:80", 2, -1), "--process-id is -1"),
        (("node1:80", 2, 0, True), "--distributed asks the cluster for what --coordinator tells; give only one"),
    ],
)
def test_values_that_do_not_fit_each_other(values, message):
    with pytest.raises(ValueError, match=message):
        distributed.start(*values)
    assert not jax.distributed.is_initialized()


def test_a_process_alone_needs_no_job():
    distributed.start()
    assert not jax.distributed.is_initialized()
    assert distributed.is_writer()
    tree = {"a": np.arange(3), "text": "hello"}
    assert distributed.from_writer(tree) is tree
    assert distributed.agree(False, 7) == (False, 7)
    assert distributed.agree(True, 7) == (True, 7)
    np.testing.assert_array_equal(distributed.gather({"x": jax.numpy.arange(3)})["x"], [0, 1, 2])
    assert distributed.run(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        distributed.run(lambda: 1 // 0)


def test_a_runtime_error_of_this_process_stays_itself():
    with pytest.raises(jax.errors.JaxRuntimeError), distributed.peer_errors():
        raise jax.errors.JaxRuntimeError("Gloo all-reduce failed, though there is no job")
