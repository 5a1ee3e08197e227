"""The README is true: its tables are the registries', its code runs, the files it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

import metarl_jax as mrl

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


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
    code = BLOCKS[0].replace('"cheetah-vel", backend="spring"', '"point-nav", horizon=4')
    code = code.replace("episodes=20", "episodes=3, tasks=2")
    assert code.count("point-nav") == code.count("tasks=2") == 1
    names = {}
    exec(code, names)
    assert names["metrics"]["return"].shape == (2,)
    assert names["out"].returns.shape == (2, 3)
    assert jax.tree.structure(names["out"].params) == jax.tree.structure(names["grad"])


def test_a_task_is_written_down_as_the_text_says():
    """With shorter episodes; the tasks and the shapes are what counts."""
    code = BLOCKS[1].replace('"point-nav"', '"point-nav", horizon=4').replace("goals)", "goals, episodes=3)")
    assert code.count("horizon=4") == code.count("episodes=3") == 1
    names = {"jax": jax, "mrl": mrl}
    exec(code, names)
    assert names["out"].returns.shape == (3, 2, 3)
    velocity = mrl.envs.make("cheetah-vel").sample_task(jax.random.key(0))
    assert jax.tree.structure(velocity) == jax.tree.structure(mrl.envs.VelocityTask(target=1.5))


def test_the_environment_of_thirty_lines_is_sound_and_learns():
    """Every algorithm runs on a toy environment in tests/contract; here one of each kind of update does."""
    names = {}
    exec(BLOCKS[2], names)
    assert len(BLOCKS[2].splitlines()) <= 30
    assert mrl.envs.check(names["env"]) == ()
    for name in ("promp", "reptile"):
        algorithm = mrl.algorithms.make(name, names["env"], tasks=2, episodes=3)
        _, metrics = jax.jit(algorithm.update)(jax.random.key(0), algorithm.init(jax.random.key(1)))
        assert np.isfinite(metrics["return"]).all()


def test_the_code_of_the_environments_page_runs():
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    *_, template = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(template.splitlines()) <= 30
    names = {}
    exec(template, names)
    assert "fault" not in names, "the template has a fault"


def test_named_files_exist():
    named = re.findall(r"`((?:metarl_jax|experiments|benchmarks|tests|docs)/[\w./-]*)`", TEXT)
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert len(named) > 5
    for path in {*named, *linked}:
        assert (ROOT / path).exists(), path
