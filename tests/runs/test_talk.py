"""What a user names is shown as it is: no markup, no emoji, no formula."""

import ast
import dataclasses
import io
from pathlib import Path

import jax.numpy as jnp
import pytest
from rich.console import Console

import metarl_jax
from metarl_jax.runs import config as configs
from metarl_jax.runs import run as runs
from metarl_jax.runs.config import Built
from metarl_jax.runs.console import talk
from metarl_jax.runs.pictures import plots, show_tasks, task_pictures, theta_plot
from metarl_jax.runs.sweeps import results as sweep_results
from tests.experiments.scripts import EXPERIMENTS
from tests.runs.stub import make, stub_env

# A closing tag without its opening one, a tag, an emoji, a formula that is none.
NAME = r"x[/red]y [lr=0.1] :warning: $a_{$ \[b]"


@pytest.fixture
def wide():
    return Console(file=io.StringIO(), width=1000)


def test_a_run_tells_its_names_as_they_are(tmp_path, monkeypatch, wide, stub):
    folder = tmp_path / NAME.replace("\\", "")
    algorithm = configs.build(make(folder)).algorithm
    monkeypatch.setattr(
        configs, "build", lambda config, **_: Built(dataclasses.replace(stub_env(), name=NAME), algorithm)
    )
    runs.train_run(make(folder, iterations=2), wide)
    text = wide.file.getvalue()
    assert f"training {NAME} with maml" in text
    assert f"results go to {folder}\n" in text
    assert f"{NAME}, maml: return on 40 test tasks" in text
    assert f"  {folder}/evaluation.json  every task's return" in text


TELLERS = {
    "a line": lambda console: talk.line(console, NAME),
    "a note": lambda console: talk.note(console, NAME),
    "a file": lambda console: talk.file(console, Path(NAME), NAME),
    "a sweep's table": lambda console: console.print(
        sweep_results.table(
            [sweep_results.Result("m", {"task": NAME}, "failed", 0, None, None, None, 0, 0.0, NAME)], NAME, 1
        )
    ),
    "a card": lambda console: console.print(
        show_tasks._card(dataclasses.replace(metarl_jax.envs.card("point-nav"), name=NAME, source=NAME), {"goal": NAME})
    ),
}


@pytest.mark.parametrize("teller", TELLERS)
def test_words_are_no_markup(wide, teller):
    TELLERS[teller](wide)
    assert NAME in wide.file.getvalue()


def test_a_status_is_no_markup():
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with talk.status(console, NAME):
        pass
    assert NAME in console.file.getvalue()


PICTURES = {
    "a sweep": lambda path: plots.sweep(
        [({"task": NAME, "outer_lr": lr}, 1.0, 0.1) for lr in ("0.1", "0.2")]
        + [({"task": "$b$$", "outer_lr": "0.1"}, 1.0, 0.1)],
        path,
        title=NAME,
        error="seeds",
    ),
    "tasks": lambda path: task_pictures.draw_tasks({NAME: jnp.arange(1.0, 9.0)}, path, title=NAME),
    "hyperparameters": lambda path: theta_plot.hyperparameters(
        {name: jnp.arange(2.0) for name in (*theta_plot.HYPERPARAMETERS, "seed", "iteration")}, path, title=NAME
    ),
}


@pytest.mark.parametrize("picture", PICTURES)
def test_dollars_in_a_picture_are_letters(tmp_path, picture):
    PICTURES[picture](tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size


def test_no_words_reach_a_console_past_these_functions():
    """A console would read an f-string as markup: only tables, whose cells are checked above, go straight to one."""
    package = Path(metarl_jax.__file__).parent
    sources = [*(package / "runs").rglob("*.py"), *(package / "commands").glob("*.py"), *EXPERIMENTS.glob("*.py")]
    seen = {
        f"{source.name}:{node.lineno}": isinstance(node.args[0], ast.Call)
        for source in sources
        if source.name != "talk.py"
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("print", "status")
        if ast.unparse(node.func.value) not in ("talk", "traceback")
    }
    assert seen, "tables are printed somewhere"
    assert [place for place, table in seen.items() if not table] == []
