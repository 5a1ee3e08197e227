"""The package as a project: exact pins, a quiet start, small files, and imports that follow the data flow."""

import ast
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import jax.numpy as jnp
import jaxtyping
import pytest

from metarl_jax import algorithms

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metarl_jax"


def tracked_files() -> list[pathlib.Path]:
    """What git tracks, or would if all that it does not ignore were added."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


PYTHON_FILES = [path for path in tracked_files() if path.suffix == ".py"]


# --- the project's files ---------------------------------------------------------------------------------------------

PIN = re.compile(r"^[a-z0-9][a-z0-9._-]*==[0-9][a-z0-9.!+]*( ; [a-z_ '<>=!.0-9]+)?$")


def constraint_rows() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_constraints_are_only_pins():
    rows = constraint_rows()
    assert len(rows) > 50
    assert [row for row in rows if not PIN.match(row)] == []
    assert not re.search("://|@", (ROOT / "constraints.txt").read_text())


@pytest.mark.parametrize("row", ["jax>=0.10", "jax @ file", "--index-url x", "jax==0.10 --hash=sha256:0", "jax==*"])
def test_the_pin_pattern_refuses(row):
    assert not PIN.match(row)


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {canonical(item) for item in project["dependencies"] + extras["test"] + extras["docs"]}
    assert needed - {canonical(row) for row in constraint_rows()} == set()


def test_no_file_mentions_the_workplace():
    # Put together here, so that this file is not one of them.
    names = ["DESIGN", "REFERENCE", "ECOSYSTEM"]
    patterns = [*(name + ".md" for name in names), "/" + "work/", "." + "library", "/" + "root/", "pypi-" + "more"]
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode(errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {pattern}" for pattern in patterns if pattern in text]
    assert found == []


def test_files_stay_small():
    assert len(PYTHON_FILES) > 10
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PYTHON_FILES}
    assert {name: size for name, size in sizes.items() if size > 320} == {}


@pytest.mark.parametrize("name", algorithms.names())
def test_a_named_algorithm_is_a_few_lines(name):
    """The option struct, which is data, not counted."""
    algorithm = algorithms.ALGORITHMS[name]
    file = inspect.getsourcefile(inspect.unwrap(algorithm))
    assert file
    struct = inspect.getsource(algorithm.options) if algorithm.options.__module__ == algorithm.__module__ else ""
    assert len(pathlib.Path(file).read_text().splitlines()) - len(struct.splitlines()) <= 60


LONG = {
    "_run": "every combination of flags of a rollout stands in one place",
    "evaluate_run": "an argument for each option of evaluate.py",
    "trust_region": "an algorithm whose steps share all of its quantities",
}


def test_functions_stay_short():
    """At most 60 lines besides the docstring, and 12 arguments."""
    long = []
    for path in PYTHON_FILES:
        if ROOT / "tests" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False)
                lines = (node.end_lineno or 0) - node.lineno + 1 - (len(docstring.splitlines()) if docstring else 0)
                arguments = len(node.args.args) + len(node.args.kwonlyargs)
                if (lines > 60 or arguments > 12) and node.name not in LONG:
                    long.append(f"{path.relative_to(ROOT)}: {node.name}, {lines} lines, {arguments} arguments")
    assert long == []


# --- imports follow the data flow ------------------------------------------------------------------------------------

# An import may only point to an earlier level, or stay inside its own folder.
LEVELS = [
    {"types", "checks", "precision", "recipes", "statistics"},
    {"actions", "moments", "observations"},
    {"task_env"},
    {"base", "batching", "devices"},
    {"entry", "keywords", "outside", "soundness"},
    {"envs", "policies"},
    {"curriculum", "normalization", "rollout"},
    {"inner"},
    {"outer"},
    {"options"},
    {"compose", "lifelong", "mixture", "sequential"},
    {"algorithms", "guard", "sharing"},
    {"chunks"},
    {"learner", "training", "evaluation"},
    {"plot"},
    {"runs"},
    {"zoo"},
    {"commands"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
# A third party, and who may know it.
HOME = {
    "brax": "envs",
    "mujoco": "envs",
    "gymnax": "envs",
    "mujoco_playground": "envs",
    "flax.linen": "policies",
    "flax.nnx": "nowhere",
    "matplotlib": "plot runs",
    "orbax": "runs",
    "submitit": "runs",
    "tensorboardX": "runs",
    "wandb": "runs",
}


def imported_modules(source: str, module: str) -> set[str]:
    """Absolute dotted names that a module imports, inside functions too; a `from` import names what it takes."""
    names = set()
    package = module.split(".")  # metarl_jax.inner.sgd: level 1 is metarl_jax.inner
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def flow_errors(source: str, module: str) -> list[str]:
    """What the module at this dotted name imports against the rules."""
    parts = module.split(".")
    own = parts[1] if len(parts) > 1 else None  # None: the package's own __init__
    if own is not None and own not in LEVEL:
        return [f"{module} is in no level of the data flow; add it to LEVELS"]
    errors = []
    for name in sorted(imported_modules(source, module)):
        for party, home in HOME.items():
            if (name == party or name.startswith(party + ".")) and own not in home.split():
                errors.append(f"{module} imports {name}, which only {home} may")
        target = name.split(".")
        if target[0] != "metarl_jax" or own is None:
            continue
        if len(target) == 1 or target[1] not in LEVEL:
            errors.append(f"{module} imports {name}; import from the module that defines it")
        elif target[1] != own and LEVEL[target[1]] >= LEVEL[own]:
            errors.append(f"{module} imports {name}, against the flow")
    return errors


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if path.parent != PACKAGE or path.stem != "__init__" else parts[:-1])


def test_imports_follow_the_flow():
    files = [path for path in PYTHON_FILES if PACKAGE in path.parents]
    assert [error for path in files for error in flow_errors(path.read_text(), module_name(path))] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("metarl_jax.inner.adapter", "from metarl_jax.outer import objectives"),
        ("metarl_jax.inner.adapter", "from metarl_jax import runs"),
        ("metarl_jax.inner.adapter", "def f():\n    import metarl_jax.runs.checkpoint.checkpoints"),
        ("metarl_jax.inner.adapter", "from ..outer.objectives import ratio"),
        ("metarl_jax.training", "from metarl_jax.runs import logging"),
        ("metarl_jax.training", "import metarl_jax as mrl"),
        ("metarl_jax.evaluation", "from metarl_jax import training"),
        ("metarl_jax.rollout", "import flax.linen as nn"),
        ("metarl_jax.rollout", "from flax import linen"),
        ("metarl_jax.rollout", "import brax.envs"),
        ("metarl_jax.rollout", "from brax import envs"),
        ("metarl_jax.surprise", "import jax"),
    ],
)
def test_the_flow_refuses(module, source):
    assert flow_errors(source, module)


# --- a quiet start ---------------------------------------------------------------------------------------------------


def run_python(cwd: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_import_is_quiet_and_light(tmp_path):
    heavy = ["brax", "mujoco", "matplotlib", "orbax.checkpoint", "tensorboardX", "wandb", "flax.nnx", "scipy"]
    heavy += ["gymnax", "mujoco_playground", "submitit", "tyro"]
    use = "import sys, metarl_jax as m; m.envs.from_brax, m.algorithms, m.training, m.evaluation, m.Learner"
    code = f"{use}; sys.exit(', '.join(m for m in {heavy!r} if m in sys.modules) or 0)"
    result = run_python(tmp_path, "-W", "error", "-c", code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


SCRIPTS = [path for path in PYTHON_FILES if path.parent in (ROOT / "experiments", ROOT / "benchmarks")]
SCRIPTS = [path for path in SCRIPTS if 'if __name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help_answers_without_physics_and_plots(script, tmp_path):
    """These libraries take seconds to import, and a script needs them only when it works."""
    code = (
        "import runpy, sys\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print('loaded', {'brax', 'mujoco', 'orbax', 'matplotlib', 'submitit'} & set(sys.modules), file=sys.stderr)"
    )
    result = run_python(tmp_path, "-c", code, str(script))
    assert (result.returncode, result.stderr) == (0, "loaded set()\n")
    assert result.stdout.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []


# --- the checks themselves are on ------------------------------------------------------------------------------------


def test_shapes_are_checked():
    """The import hook of pyproject.toml is alive: a wrong shape that numpy's broadcasting lets pass is refused."""
    from metarl_jax.inner import normalize

    normalize(jnp.ones((2, 3)), jnp.ones((2, 3), bool))
    with pytest.raises(jaxtyping.TypeCheckError):
        normalize(jnp.ones((2, 3, 1)), jnp.ones((2, 3, 1), bool))


def test_all_modules_with_shapes_are_checked():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    (hook,) = [option for option in options if option.startswith("--jaxtyping-packages=")]
    *checked, _ = hook.partition("=")[2].split(",")
    for module in checked:
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    with_shapes = {module_name(path) for path in PACKAGE.rglob("*.py") if "from jaxtyping import" in path.read_text()}
    assert with_shapes - {*checked} == set()


def test_the_version_is_in_one_place():
    import metarl_jax

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert "version" in project["dynamic"]
    dated = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert dated[0] == metarl_jax.__version__


# What is needed and not imported: a backend of Brax, and model files.
NOT_IMPORTED = {"mujoco-mjx", "gymnasium"}


def test_every_dependency_is_imported():
    """A distribution's module has another name here and there."""
    modules = {"orbax-checkpoint": "orbax.checkpoint", "pillow": "PIL", "tensorboardx": "tensorboardX"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonical(item) for item in project["dependencies"]}
    imported = set()
    for path in PYTHON_FILES:
        if PACKAGE in path.parents:
            text = path.read_text()
            imported |= imported_modules(text, module_name(path))
            imported |= {*re.findall(r'importlib\.import_module\("([\w.]+)"\)', text)}
    for name in needed - NOT_IMPORTED:
        module = modules.get(name, name)
        assert any(f"{found}.".startswith(f"{module}.") for found in imported), f"nothing imports {name}"


def test_tests_of_a_file_run_in_one_process(request):
    """pytest-xdist says so by a suffix; without it every test is sent anywhere, and files' fixtures are made twice."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("all tests run in one process")
    assert request.node.nodeid.endswith("@tests.test_packaging.py")
