"""The README and the first pages of docs/ are true: tables are the registries', code runs, named files exist."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import metarl_jax as mrl

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def code_of(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_readme_is_short():
    lines = TEXT.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 125] == []


def test_tables_are_those_of_the_registries():
    command = [sys.executable, "docs/tables.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0, "run `python docs/tables.py`"


def test_every_registered_name_is_in_the_text():
    for name in (*mrl.algorithms.names(), *mrl.envs.names()):
        assert f"`{name}`" in TEXT
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    for version in (v for family in mrl.envs.names() for v in mrl.envs.versions(family)):
        assert f"`{version}`" in page


def test_the_ten_lines_run():
    """On a small pure-JAX environment; the names and the shapes in the comments are what counts."""
    (code,) = code_of("README.md")
    assert code == code_of("docs/getting_started.md")[0]
    code = code.replace('"cheetah-vel", backend="spring"', '"point-nav", horizon=4')
    code = code.replace("episodes=20", "episodes=3, tasks=2")
    assert code.count("point-nav") == code.count("tasks=2") == 1
    names = {}
    exec(code, names)
    assert names["metrics"]["return"].shape == (2,)
    assert names["out"].returns.shape == (2, 3)
    assert jax.tree.structure(names["out"].params) == jax.tree.structure(names["grad"])


@pytest.mark.thorough
def test_what_is_trained_is_drawn_and_saved_as_the_text_says(tmp_path, monkeypatch):
    code = code_of("docs/getting_started.md")[1]
    code = code.replace('"point-nav"', '"point-nav", horizon=4').replace("goals)", "goals, tasks=2, episodes=3)")
    code = code.replace("iterations=20", "iterations=2").replace("steps=3", "num_tasks=2")
    assert [code.count(part) for part in ("horizon=4", "tasks=2, e", "iterations=2)", "num_tasks=2")] == [1] * 4
    monkeypatch.chdir(tmp_path)
    names = {"jax": jax, "mrl": mrl}
    exec(code, names)
    run = mrl.load("runs/saved")
    assert (run.iteration, run.env.horizon) == (2, 4)
    jax.tree.map(np.testing.assert_array_equal, run.params, names["chunks"][-1].state.params)


def test_a_task_is_written_down_as_the_text_says():
    """With shorter episodes; the tasks and the shapes are what counts."""
    code = code_of("docs/getting_started.md")[2]
    code = code.replace('"point-nav"', '"point-nav", horizon=4').replace("goals)", "goals, episodes=3)")
    assert code.count("horizon=4") == code.count("episodes=3") == 1
    names = {"jax": jax, "mrl": mrl}
    exec(code, names)
    assert names["out"].returns.shape == (3, 2, 3)
    velocity = mrl.envs.make("cheetah-vel").sample_task(jax.random.key(0))
    assert jax.tree.structure(velocity) == jax.tree.structure(mrl.envs.VelocityTask(target=1.5))


@pytest.mark.thorough
def test_the_environment_of_thirty_lines_is_sound_and_learns(tmp_path, monkeypatch):
    """Every algorithm runs on a toy environment in tests/contract; here one of each kind of update does."""
    code, acting, _, program, registering = code_of("docs/writing_tasks.md")
    assert "mrl.envs.register(" in registering  # tests/runs/test_registering.py runs such a module
    names = {}
    exec(code, names)
    assert len(code.splitlines()) <= 30
    assert "fault" not in names, "the template has a fault"
    assert mrl.envs.check(names["env"]) == ()
    for name in ("promp", "reptile"):
        algorithm = mrl.algorithms.make(name, names["env"], tasks=2, episodes=3)
        _, metrics = jax.jit(algorithm.update)(jax.random.key(0), algorithm.init(jax.random.key(1)))
        assert np.isfinite(metrics["return"]).all()
    exec(acting, names)
    algorithm = names["algorithm"]
    _, metrics = jax.jit(algorithm.update)(jax.random.key(0), algorithm.init(jax.random.key(1)))
    assert np.isfinite(metrics["return"]).all()
    monkeypatch.chdir(tmp_path)
    shorter = program.replace("tasks=10", "tasks=2, episodes=3, eval_tasks=2, quiet=True")
    shorter = shorter.replace("iterations=100", "iterations=1")
    assert len(shorter) > len(program), "it is shorter indeed"
    exec(shorter, names)
    assert names["out"].returns.shape == (2, 3)
    assert (tmp_path / "runs" / "own" / "evaluation.json").exists()


@pytest.mark.thorough
def test_the_code_on_curricula_runs():
    """Smaller, and each block after the one before it."""
    sampler, together, argument, measures = code_of("docs/curricula.md")
    names = {}
    code = sampler.replace('"point-nav"', '"point-nav", horizon=4').replace("tasks=10", "tasks=2, episodes=3")
    exec(code, names)
    update = jax.jit(names["algorithm"].update)
    state, _ = update(jax.random.key(0), names["algorithm"].init(jax.random.key(1)))
    assert np.isclose(state.opt_state.sampler, 0.12)  # four steps cost less than 10
    exec(together, names)
    goals = names["paired"].sample_tasks(jax.random.key(0), 4).goal
    np.testing.assert_array_equal(goals[:2], -goals[2:])
    exec(argument.replace("tasks=4", "tasks=4, episodes=3"), names)
    assert names["metrics"]["return"].shape == (2,)
    exec(measures, names)
    algorithm = mrl.algorithms.maml(names["measured"], tasks=2, episodes=3)
    _, metrics = jax.eval_shape(lambda key: algorithm.update(key, algorithm.init(key)), jax.random.key(0))
    assert metrics["success"].shape == (2,)
    assert metrics["task_returns"].shape == (2, 2)


@pytest.mark.thorough
def test_the_code_on_optimisers_runs():
    optimiser, grid, several = code_of("docs/own_optimisers.md")
    names = {}
    exec(optimiser, names)
    jax.eval_shape(lambda key: names["algorithm"].update(key, names["algorithm"].init(key)), jax.random.key(0))
    smaller = grid.replace("(1), 10)", "(1), 2)").replace("0.05, 0.1, 0.2", "0.05")
    assert len(smaller) < len(grid) - 10
    exec(smaller, names)
    assert names["returns"].shape == (2, 2, 2)
    names["env"] = mrl.envs.make("point-nav", horizon=4)
    exec(several.replace("tasks=4, episodes=5", "tasks=2, episodes=3").replace("iterations=10", "iterations=2"), names)
    assert names["state"].iteration == 2


@pytest.mark.thorough
def test_the_environment_of_pictures_is_sound_and_learns():
    names = {"jax": jax, "jnp": jax.numpy, "mrl": mrl}
    exec(code_of("docs/writing_tasks.md")[2], names)
    assert mrl.envs.check(names["dots"]) == ()
    algorithm = names["algorithm"]
    _, metrics = jax.jit(algorithm.update)(jax.random.key(0), algorithm.init(jax.random.key(1)))
    assert np.isfinite(metrics["return"]).all()


PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:metarl_jax|experiments|benchmarks|tests|docs)/[\w./-]*)`", text)
    linked = re.findall(r"\]\((?!https?:)([^)#\s]+)\)", text)
    for path in named:
        assert (ROOT / path).exists(), path
    for path in linked:
        assert ((ROOT / page).parent / path).exists(), path
