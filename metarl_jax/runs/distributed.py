"""Several processes as one job: how they start, agree, share values and end, none of them waiting for a dead one.

JAX runs the same program in every process, and a process that takes another turn than the rest makes the rest wait. So
whatever depends on more than the command line (the clock, a signal, the disk) is decided by one and told to all.
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
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from metarl_jax.runs.cli import RunStopped
from metarl_jax.types import PyTree

T = TypeVar("T")

_FLAGS = ("--coordinator", "--num-processes", "--process-id")

ARRIVAL = 300
"""Seconds that a process waits at the start for all others."""
SILENCE = 30
"""Seconds without a sign of life after which a process counts as dead. JAX's threads give it, busy or not."""
FAREWELL = 5
"""Seconds that a process which failed waits for the others to fail likewise, before it ends alone."""

_GO_ON = "--resume goes on from the last checkpoint once all are started again"
_LOST = f"another process of this job has ended or cannot be reached, and its own output says why; {_GO_ON}"
# Of gloo, NCCL and JAX's coordination service. What else a runtime error may be, out of memory, is this process's own.
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
    """Makes this process one of a job's; before any other use of JAX. Without arguments the job is this process alone.

    Once all have met, the death of one ends the others: within `silence` seconds where nothing else betrays it, at once
    where process 0 died, and with status 1 and a line on stderr. JAX aborts the process for this (SIGABRT); the line is
    written, and the status set, by a handler of that signal.

    Args:
        coordinator: HOST:PORT of process 0, as all can reach it.
        num_processes: how many there are.
        process_id: which of them this is, from 0.
        detect: take all three from Slurm, Kubernetes, Open MPI or a TPU pod.
        arrival: seconds to wait for all to start.
        silence: seconds without a sign of life after which a process counts as dead.

    Raises:
        ValueError: the values do not fit each other, no cluster was detected, or the coordinator cannot be reached.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if not (detect or any(given)):
        return
    if detect and any(given):
        raise ValueError("--distributed asks the cluster for what --coordinator tells; give only one of them")
    if coordinator is not None and num_processes is not None and process_id is not None:
        _check(coordinator, num_processes, process_id)
    elif not detect:
        missing = [flag for flag, known in zip(_FLAGS, given, strict=True) if not known]
        raise ValueError(f"{' and '.join(missing)} not given; a job needs all of {', '.join(_FLAGS)}")
    where = coordinator or "the address that was detected"
    # JAX's own handler of SIGTERM would only take note of it; the run's own finishes a chunk and writes a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    _on_abort(
        f"not all processes of the job met at {where} within {arrival} s; start the same command on every machine, "
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
            f"no job could be made at {where} ({reason}); its port must be free where process 0 is"
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
    """Waits until process 0 listens: JAX would do so too, and abort where this raises."""
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
    """Turns the runtime errors by which this process notices another's death into `PeerLost`.

    Wrap all that communicates, which is every computation on arrays of several processes.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.distributed.is_initialized() and any(sign in str(error).lower() for sign in _SIGNS):
            raise PeerLost(_LOST) from error
        raise


def run(script: Callable[[], int]) -> int:
    """Runs a script to its exit status and ends this process's part in the job, if it has one.

    After a success all wait for each other. After a failure the others get `FAREWELL` seconds to fail likewise, as they
    do where the error was told to all. Then this process ends without them, and by that they notice.

    Args:
        script: what returns an exit status, having told its errors, such as ``lambda: cli.run(main)``.
    """
    try:
        status = script()
        if status == 0 and jax.distributed.is_initialized():
            # A barrier without a time limit, unlike that of the shutdown: process 0 may still be evaluating.
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # all is said; what JAX's runtime may add would bury it
        _on_abort(_LOST, status)
        farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        farewell.start()
        farewell.join(FAREWELL)
        _exit(status)
    return status


def _exit(status: int) -> NoReturn:
    """Ends the process now, without the handlers of a normal exit, which wait for the other processes."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _on_abort(line: str, status: int = 1) -> None:
    """What is said, and the exit status, when C++ aborts the process.

    JAX's runtime does that where it finds another process dead, from a thread of its own. A handler set by the `signal`
    module would not run, since abort() does not return to the interpreter; one set in C does, and may call Python.
    """
    global _handler

    def last_words(_: int) -> None:
        try:
            os.write(2, f"error: {line}\n".encode())
        finally:
            _exit(status)

    handler = _Handler(last_words)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
    _handler = handler  # the one before is freed now, when C no longer calls it


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handler: Any = None


def is_writer() -> bool:
    """Whether this process is the one that writes files and talks: process 0."""
    return jax.process_index() == 0


def from_writer(value: T) -> T:
    """Process 0's value, in all processes. Every process must call this, with whatever value.

    Args:
        value: anything that can be pickled, such as a text or a tree of host arrays; its own in a process alone.
    """
    if jax.process_count() == 1:
        return value
    data = np.frombuffer(pickle.dumps(value) if is_writer() else b"", np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = data if is_writer() else np.zeros(size, np.uint8)
    return pickle.loads(multihost_utils.broadcast_one_to_all(data).tobytes())


def agree(stop: bool, count: int) -> tuple[bool, int]:
    """Whether any process wants to stop, and process 0's count; the same in all. Every process must call this."""
    if jax.process_count() == 1:
        return stop, count
    said = np.reshape(multihost_utils.process_allgather(np.array([stop, count], np.int32)), (-1, 2))
    return bool(said[:, 0].any()), int(said[0, 1])


def gather(tree: PyTree) -> PyTree:
    """Host copies of arrays that may lie on several processes' devices, in all. Every process must call this.

    Typed keys, of which there are no host copies, stay as they are.
    """

    def leaf(x: Any) -> np.ndarray | jax.Array:
        spread = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
        if spread:
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)

    return jax.tree.map(leaf, tree)
