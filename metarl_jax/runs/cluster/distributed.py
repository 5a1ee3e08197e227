"""Multi-process jobs: starting, agreeing, sharing values and ending, without waiting for processes that have died.

JAX runs the same program in each process, and a process that diverges from the others blocks them. Hence decisions that
depend on more than the command line (time, signals, the disk) are made by one process and broadcast to all.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from metarl_jax.runs.console.cli import RunStopped
from metarl_jax.types import PyTree, is_key

T = TypeVar("T")

_FLAGS = ("--coordinator", "--num-processes", "--process-id")

ARRIVAL = 300
"""Seconds that a process waits for all others at the start."""
SILENCE = 30
"""Seconds without a heartbeat after which a process counts as dead; JAX sends heartbeats from background threads."""
FAREWELL = 5
"""Seconds that a failed process waits for the others to fail too, before it exits."""

_GO_ON = "--resume goes on from the last checkpoint once all are started again"
_LOST = f"another process of this job has ended or cannot be reached, and its own output says why; {_GO_ON}"
# Signs of gloo, NCCL and JAX's coordination service. Other runtime errors, such as out of memory, are local.
_SIGNS = ("gloo", "nccl", "unavailable", "coordination", "connection closed", "connection reset", "socket closed")


class PeerLost(RunStopped):
    """Another process of the job has ended or cannot be reached."""


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    detect: bool = False,
    *,
    arrival: int = ARRIVAL,
    silence: int = SILENCE,
) -> None:
    """Joins a multi-process job; must precede any other use of JAX. Without arguments, this process is the whole job.

    After the start, the death of one process ends the others with status 1 and a line on stderr: immediately for
    process 0, else after `silence` seconds at most. JAX aborts the process for this (SIGABRT); a signal handler writes
    the line and sets the status.

    Args:
        coordinator: HOST:PORT of process 0, reachable from all processes.
        num_processes: number of processes.
        process_id: index of this process, from 0.
        detect: take all three from Slurm, Kubernetes, Open MPI or a TPU pod.
        arrival: seconds to wait for all processes to start.
        silence: seconds without a heartbeat after which a process counts as dead.

    Raises:
        ValueError: the values are inconsistent, no cluster was detected, or the coordinator cannot be reached.
    """
    is_set = [value is not None for value in (coordinator, num_processes, process_id)]
    if not (detect or any(is_set)):
        return
    if detect and any(is_set):
        raise ValueError("--distributed asks the cluster for what --coordinator tells; give only one of them")
    if coordinator is not None and num_processes is not None and process_id is not None:
        _check(coordinator, num_processes, process_id)
    elif not detect:
        missing = [flag for flag, present in zip(_FLAGS, is_set, strict=True) if not present]
        raise ValueError(f"{' and '.join(missing)} not given; a job needs all of {', '.join(_FLAGS)}")
    location = coordinator or "the address that was detected"
    # JAX's SIGTERM handler would only record the signal; the run's handler finishes a chunk and writes a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    _on_abort(
        f"not all processes of the job met at {location} within {arrival} s; start the same command on every machine, "
        "each process with its own id, and check that all can reach that host and port"
    )
    try:
        if coordinator is not None and process_id:
            _reach(coordinator, arrival)
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            cluster_detection_method=None if detect else "deactivate",
            initialization_timeout=arrival,
            heartbeat_timeout_seconds=silence,
        )
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"no job could be made at {location} ({reason}); its port must be free where process 0 is"
        ) from error
    except (ValueError, RuntimeError) as error:
        if not detect:
            raise
        raise ValueError(
            f"--distributed found no cluster to join ({error}); it knows Slurm (srun), Kubernetes, Open MPI (mpirun) "
            f"and TPU pods, and elsewhere {', '.join(_FLAGS)} say what it would find"
        ) from error
    _on_abort(f"{_LOST} (JAX's runtime aborted this process; the lines above are its own)")


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"--coordinator is {coordinator!r}; it must be HOST:PORT, such as node1:12345")
    if num_processes < 1:
        raise ValueError(f"--num-processes is {num_processes}; it must be at least 1")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process-id is {process_id}; with --num-processes {num_processes} it must be 0 to "
            f"{num_processes - 1}, each once"
        )


def _reach(coordinator: str, seconds: float) -> None:
    """Waits until process 0 listens; JAX would wait too, but abort the process on a timeout."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"--coordinator is {coordinator}, which was not reached within {seconds} s ({error}); start "
                    "process 0 there, and check the host's name, the port and the firewall"
                ) from error
        time.sleep(0.2)


@contextlib.contextmanager
def peer_errors() -> Iterator[None]:
    """Converts runtime errors caused by the death of another process to `PeerLost`.

    Use it around all communication, that is, computations on arrays of several processes.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.distributed.is_initialized() and any(sign in str(error).lower() for sign in _SIGNS):
            raise PeerLost(_LOST) from error
        raise


def run(script: Callable[[], int]) -> int:
    """Runs a script, leaves the job (if any) and returns the exit status.

    After a success, all processes wait for each other. After a failure, this process waits `FAREWELL` seconds for the
    others to fail too, which they do if the error was broadcast. Then it exits, which ends the others.

    Args:
        script: reports its errors and returns an exit status, such as ``lambda: cli.run(main)``.
    """
    try:
        status = script()
        if status == 0 and jax.distributed.is_initialized():
            # Unlike the barrier of the shutdown, this one has no time limit: process 0 may still be evaluating.
            with peer_errors():
                multihost_utils.sync_global_devices("end of the job")
            jax.distributed.shutdown()
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
    except PeerLost as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        status = 1
    if jax.distributed.is_initialized():
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # suppresses further output of JAX's runtime
        _on_abort(_LOST, status)
        farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        farewell.start()
        farewell.join(FAREWELL)
        _exit(status)
    return status


def _exit(status: int) -> NoReturn:
    """Ends the process immediately, without exit handlers, which would wait for the other processes."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _on_abort(line: str, status: int = 1) -> None:
    """Sets the error line and the exit status for the case that C++ code aborts the process.

    JAX's runtime calls abort() in one of its threads when another process has died. A handler set by the `signal`
    module would not run, since abort() does not return to the interpreter. A C handler runs and may call Python.
    """
    global _handler

    def last_words(_: int) -> None:
        try:
            os.write(2, f"error: {line}\n".encode())
        finally:
            _exit(status)

    handler = _Handler(last_words)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
    _handler = handler  # frees the previous handler, which C no longer calls


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handler: Any = None


def is_writer() -> bool:
    """Whether this process writes files and prints: process 0."""
    return jax.process_index() == 0


def from_writer(value: T) -> T:
    """Broadcasts process 0's value. All processes must call this, with any value.

    Args:
        value: any picklable object, such as a text or a tree of host arrays; returned as it is in a single process.
    """
    if jax.process_count() == 1:
        return value
    data = np.frombuffer(pickle.dumps(value) if is_writer() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = data if is_writer() else np.zeros(size, np.uint8)
    return pickle.loads(multihost_utils.broadcast_one_to_all(data).tobytes())


def agree(stop: bool, count: int) -> tuple[bool, int]:
    """Whether any process wants to stop, and process 0's count; equal in all processes, which must all call this."""
    if jax.process_count() == 1:
        return stop, count
    votes = np.reshape(multihost_utils.process_allgather(np.array([stop, count], np.int32)), (-1, 2))
    return bool(votes[:, 0].any()), int(votes[0, 1])


def gather(tree: PyTree) -> PyTree:
    """Host copies of arrays, which may be sharded across processes. All processes must call this.

    Typed keys cannot be copied to the host and are returned unchanged.
    """

    def leaf(x: Any) -> np.ndarray | jax.Array:
        spread = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
        if spread:
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return x if is_key(x) else np.asarray(x)

    return jax.tree.map(leaf, tree)
