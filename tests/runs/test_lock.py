"""Locks where the file system has none: refused with the way out, and a file that takes their place."""

import errno
import fcntl
import json
import os
import re
import socket

import pytest

from metarl_jax.runs.console.cli import UserError
from metarl_jax.runs.session import opened
from metarl_jax.runs.storage.folder import HELD, LOCK, only_writer, owner, running
from metarl_jax.runs.sweeps.jobs import _held
from tests.runs.stub import make

DEAD = 2**22 + 1
"""a process that is none: Linux counts to 2**22"""


@pytest.fixture(params=[errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def without(request, monkeypatch):
    """A file system that knows no flock."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def refusal(folder, lock="kernel"):
    with pytest.raises(ValueError, match=re.escape(str(folder))) as caught, only_writer(folder, lock):
        pass
    return str(caught.value)


def test_a_file_system_without_locks(tmp_path, without):
    assert re.search(r"has no locks \(.+\); --lock file takes one that works there", refusal(tmp_path))
    with only_writer(tmp_path, "file"):
        assert f"in use by process {os.getpid()} on {socket.gethostname()}" in refusal(tmp_path, "file")
        assert _held(tmp_path / LOCK)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_another_error_is_not_taken_for_one(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"), only_writer(tmp_path, "file"):
        pass


OWNERS = {
    "of this host, alive": ({"process": os.getpid(), "host": socket.gethostname()}, "if that has ended: remove", True),
    "of this host, dead": ({"process": DEAD, "host": socket.gethostname()}, "which no longer runs: remove", False),
    "of another host": ({"process": DEAD, "host": "elsewhere"}, "if that has ended: remove", True),
    "of nobody": ({}, "in use by another process; if that has ended: remove", True),
}


@pytest.mark.parametrize("whose", OWNERS)
@pytest.mark.parametrize("lock", ["kernel", "file"])
def test_the_file_of_another_is_respected_by_both_locks(tmp_path, whose, lock):
    said, words, alive = OWNERS[whose]
    (tmp_path / HELD).write_text(json.dumps(said | {"since": "noon"}) if said else "")
    message = refusal(tmp_path, lock)
    assert words in message
    assert str(tmp_path / HELD) in message
    assert running(said or None) == _held(tmp_path / LOCK) == alive
    (tmp_path / HELD).unlink()
    with only_writer(tmp_path, lock):
        pass


def test_a_run_without_locks_of_the_kernel(tmp_path, stub, console, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    config = make(tmp_path / "run")
    with pytest.raises(UserError, match="--lock file"), opened(config, False, False, console):
        pass
    with opened(config, False, False, console, "file"):
        assert running(owner(tmp_path / "run" / HELD))
    assert not (tmp_path / "run" / HELD).exists()
