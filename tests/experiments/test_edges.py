"""The scripts as a shell starts them, where streams, locales, signals and arguments are not what they should be."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import metarl_jax
from metarl_jax.runs.console import cli
from tests.experiments.scripts import EXPERIMENTS

ROOT = Path(metarl_jax.__file__).parents[1]
SCRIPTS = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))


def start(place, command, **variables):
    """A shell's command line, in which $RUN starts a script. No JAX is loaded where only a help text is asked for."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RUN": f"{sys.executable} {EXPERIMENTS}"} | variables
    pipe = subprocess.PIPE

    def interruptible():  # also where whoever runs the tests ignores Ctrl-C, as a shell's job in the background does
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    words = ["bash", "-c", command]
    return subprocess.Popen(words, cwd=place, env=environment, stdout=pipe, stderr=pipe, preexec_fn=interruptible)


OUTPUT = "error: standard output cannot be written "
# command → what standard error holds, and the status
SHELL = {
    "$RUN/train.py --help > /dev/full": (rf"{OUTPUT}\(no space left on device\)\n", 2),
    "$RUN/sweep.py --help | true; exit ${PIPESTATUS[0]}": (rf"{OUTPUT}\(broken pipe\)\n", 2),
    "$RUN/train.py --help | head -1; exit ${PIPESTATUS[0]}": (rf"({OUTPUT}\(broken pipe\)\n)?", None),
    "$RUN/evaluate.py --help >&-": ("", 0),
    "PYTHONIOENCODING=ascii $RUN/train.py --help": ("", 0),
    "PYTHONIOENCODING=ascii $RUN/evaluate.py λ --tasks é": (r"error: --tasks is '\\xe9'; it must be an integer.*\n", 2),
    "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $RUN/train.py --help": ("", 0),
    "$RUN/train.py --folder $'a\\xff'": (
        r"error: the argument 'a\\udcff' is not text in UTF-8.*\n",
        2,
    ),
    "$RUN/train.py --task $'\\xff'": (r"error: the argument '\\udcff' is not text in UTF-8.*\n", 2),
    "$RUN/evaluate.py x --tasks $(printf %0100000d 0)x": (r"error: --tasks is '[0 ]+ \.\.\. [0 ]+x'.{0,100}\n", 2),
    "$RUN/evaluate.py x --tasks many 2>&-": ("", 2),
}


@pytest.mark.parametrize("command", SHELL)
def test_one_line_and_the_right_status(tmp_path, command):
    message, status = SHELL[command]
    process = start(tmp_path, command)
    _, err = process.communicate(timeout=60)
    assert re.fullmatch(message, err.decode()), err
    assert process.returncode == status or (status is None and process.returncode in (0, 2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_is_imported(tmp_path, script):
    """The first thing that is imported after the handler is set waits; a help text is all that is asked for."""
    (tmp_path / "tyro.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(30)\n")
    (tmp_path / "numpy.py").write_text((tmp_path / "tyro.py").read_text())
    process = start(tmp_path, f"exec $RUN/{script}.py --help", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err.decode()) == (
        130,
        "interrupted; a training run goes on from its last checkpoint with --resume\n",
    )


def test_what_is_lost_is_told_once_and_the_rest_dropped(monkeypatch, capsys):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        flush = write.__get__

        def fileno(self):
            raise ValueError

    def main(argv):
        with cli.patient_output():
            print("one")
            said.append(cli.output_lost())
        print("two")

    said = []
    with contextlib.redirect_stdout(Full()):
        assert cli.run(main, []) == 2
    assert said == ["standard output cannot be written (no space left on device)"]
    assert capsys.readouterr().err == f"error: {said[0]}\n"
