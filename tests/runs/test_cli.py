"""What a script does before it uses JAX, and what it says of errors that are not the user's input."""

import logging
import os
import sys
import warnings

import pytest

from metarl_jax.runs.config import TrainConfig, arguments
from metarl_jax.runs.config.file import write_config
from metarl_jax.runs.console import cli


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


@pytest.mark.parametrize(
    ("argv", "task"),
    [
        ("", "cheetah-dir@promp2019"),
        ("--task ant-dir --preset point-nav", "ant-dir"),
        ("--preset point-nav", "point-nav"),
        ("--preset unknown", "cheetah-dir@promp2019"),  # told later, as are the next two
        ("--task unknown", "unknown"),
        ("--resume --folder missing", None),
        ("--resume --folder run", "grid-nav"),
    ],
)
def test_the_task_of_a_command_line_is_known_before_jax_is_used(argv, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    write_config(TrainConfig(task="grid-nav"), tmp_path / "run")
    assert arguments.task(argv.split()) == task


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        ("cheetah-dir", None, cli.QUICK),
        ("ant-dir@promp2019", None, cli.QUICK),
        ("cheetah-dir", "--xla_of_the_user", "--xla_of_the_user"),
        ("point-nav", None, None),
        ("unknown", None, None),
        (None, None, None),
    ],
)
def test_physics_is_compiled_by_the_generator_that_is_quick_at_it(task, before, after, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(
        os, "environ", {"JAX_COMPILATION_CACHE_DIR": "", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": ""}
    )
    if before is not None:
        os.environ["XLA_FLAGS"] = before
    with warnings.catch_warnings():
        cli.prepare_jax(task)
    assert os.environ.get("XLA_FLAGS") == after


def test_a_package_that_we_ask_for_is_the_users_error_and_a_broken_import_is_not():
    with pytest.raises(cli.UserError, match="^gymnasium is not installed: pip install it$"), cli.user_errors():
        raise ImportError("gymnasium is not installed:\npip install it")
    with pytest.raises(ModuleNotFoundError), cli.user_errors():
        import metarl_jax.no_such_module  # noqa: F401  # pyright: ignore[reportMissingImports]
