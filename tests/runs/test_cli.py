"""What a script says of errors that are not the user's input."""

import logging

import pytest

from metarl_jax.runs import cli


def raising(error):
    def main(argv):
        raise error

    return main


def test_a_device_that_is_full_is_one_line_with_what_can_be_done(capsys):
    error = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 10.92GiB.\n[tf-allocator-...")
    assert cli.run(raising(error), []) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the device's memory does not suffice: 10.92GiB more were asked for; ")
    assert said.count("\n") == 1
    for way_out in ("--tasks", "--task-chunk", "--remat", "XLA_PYTHON_CLIENT_PREALLOCATE=false"):
        assert way_out in said


def test_a_full_device_that_does_not_say_how_much(capsys):
    assert cli.run(raising(RuntimeError("RESOURCE_EXHAUSTED: CUDA_ERROR_OUT_OF_MEMORY")), []) == 2
    assert capsys.readouterr().err.startswith("error: the device's memory does not suffice; take fewer ")


def test_another_runtime_error_is_a_bug_and_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="INTERNAL"):
        cli.run(raising(RuntimeError("INTERNAL: something else")), [])


def test_what_the_library_logs_is_a_note_in_a_script_and_nowhere_else(capsys, caplog):
    log = logging.getLogger("metarl_jax")
    assert cli.run(lambda argv: log.warning("of %d [steps]", 3), []) == 0
    assert capsys.readouterr() == ("note: of 3 [steps]\n", "")
    assert not caplog.messages
    log.warning("outside")
    assert caplog.messages == ["outside"]
    assert not capsys.readouterr().out
