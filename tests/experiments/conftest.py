"""Scripts run in this process."""

import pytest

from metarl_jax.runs.console import cli
from tests.experiments.scripts import load


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Runs a script in an empty folder; gives status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "prepare_jax", lambda task=None: None)  # it changes the process for good

    def call(name, *arguments):
        capsys.readouterr()
        try:
            status = cli.run(load(name).main, [str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def unstarted(monkeypatch):
    """Bad input that is not refused fails here, before anything is trained, evaluated or drawn."""

    def started(*_, **__):
        pytest.fail("the input was accepted")

    for name in (
        *("run.train", "evaluation.evaluate.evaluate", "pictures.render.record"),
        "pictures.show_tasks.trivial_returns",
    ):
        monkeypatch.setattr(f"metarl_jax.runs.{name}", started)
