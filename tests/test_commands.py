"""The commands that come with a wheel are the scripts."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from metarl_jax.commands import entry
from metarl_jax.runs.console import cli

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def test_every_script_has_a_command():
    assert {
        name: f"metarl_jax.commands.entry:{name.removeprefix('metarl-')}" for name in cli.COMMANDS.values()
    } == DECLARED
    modules = {path.stem for path in (ROOT / "metarl_jax" / "commands").glob("*.py")}
    assert modules - {"__init__", "entry", "sweep_members"} == set(cli.COMMANDS)
    installed = {point.name: point.value for point in metadata.distribution("metarl-jax").entry_points}
    assert installed == DECLARED, "install the package again: pip install -e ."


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_its_script(name, monkeypatch, capsys):
    """The same help, under the name by which it was called, and the command that goes on with a run."""
    command = cli.COMMANDS[name]
    monkeypatch.setattr(sys, "argv", [f"/some/where/{command}", "--help"])
    with pytest.raises(SystemExit):
        getattr(entry, command.removeprefix("metarl-"))()
    assert f"usage: {command} " in capsys.readouterr().out
    assert cli.call(name) == command
    monkeypatch.setattr(sys, "argv", [f"experiments/{name}.py"])
    assert cli.call(name) == f"python experiments/{name}.py"


def test_a_command_ends_with_its_status():
    code = "import sys; sys.argv = ['metarl-train', '--task', 'no-such-task']; from metarl_jax.commands import entry; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(entry.train())"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown environment 'no-such-task'")
