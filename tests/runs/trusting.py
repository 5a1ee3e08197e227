"""Opens a run folder full of programs, and notes what Python was made to run; for `test_trust.py`, as a process.

An audit hook cannot be removed again. Its only argument is the run's folder, which becomes the working folder, as it
may when somebody looks at a stranger's run. Prints JSON: what the library ran, and what a reader that trusts would.
"""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoint.states import restore
from metarl_jax.runs.config import Built
from metarl_jax.runs.config.file import read_config
from metarl_jax.runs.console.cli import prepare_jax
from tests.runs.stub import make, stub_algorithm, stub_env

MARK = "pwned"
PROGRAM = f"import pathlib; pathlib.Path('{MARK}').touch()\n"
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile"}


class Touch:
    """What a pickle does to whoever loads it."""

    def __reduce__(self):
        return exec, (PROGRAM,)


def spoil(run: Path) -> None:
    """Programs under every name that something could load by itself."""
    names = ["sitecustomize", "usercustomize", "__init__", "conftest", "setup", "numpy", "jax", "json", "orbax", "evil"]
    for folder in [run, *(path for path in run.rglob("*") if path.is_dir())]:
        for name in names:
            (folder / f"{name}.py").write_text(PROGRAM)
        (folder / "evil.pth").write_text(PROGRAM)
        for name in ("evil.pkl", "config.pkl", "metrics.pkl", "state.pickle"):
            (folder / name).write_bytes(pickle.dumps(Touch()))
        np.save(folder / "evil.npy", np.array([Touch()], object), allow_pickle=True)
    (run / "matplotlibrc").write_text("backend: module://evil\ntext.usetex: True\n")


def watch(run: Path) -> list[str]:
    """A list that grows when something of the folder is run, unpickled or imported, or a process is started."""
    found: list[str] = []
    here = str(run)

    def hook(event: str, arguments: tuple) -> None:
        if event == "pickle.find_class":
            found.append(f"{event} {arguments[0]}.{arguments[1]}")
        elif event in STARTS:
            words = [os.fsdecode(word) for word in arguments[1]] if event == "subprocess.Popen" else [str(arguments[0])]
            if words[0] != "git":  # which is asked for the revision of the library
                found.append(f"{event} {words}")
        else:
            code = getattr(arguments[0], "co_filename", "") if event == "exec" else ""
            source = _text(arguments[0]) if event == "compile" else ""
            file = _text(arguments[1]) if event in ("compile", "import") else ""
            if MARK in source or any(path.startswith(here) for path in (code, file)):
                found.append(f"{event} {code or file}")

    sys.addaudithook(hook)
    return found


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def look(run: Path, console: Console) -> None:
    """Everything that the library does with a folder that it finds."""
    from metarl_jax.runs import run as runs
    from metarl_jax.runs.evaluation import evaluate
    from metarl_jax.runs.pictures import plots
    from metarl_jax.runs.sweeps import results as sweep_results
    from metarl_jax.runs.sweeps.plans import Plan

    config = read_config(run)
    for checkpoint in ("newest", "best", "4"):
        restore(config, checkpoint)
    evaluate.evaluate_run(run, console, tasks=3)
    plots.read_metrics(run / "metrics.csv")
    runs.train_run(make(run, iterations=14), console, resume=True, override=True)
    results = sweep_results.collect(Plan((), {run.name: {}}), run.parent, {run.name: read_config(run)})
    assert [result.status for result in results] == ["finished"]


# What a reader would do that trusts a folder.
TRUSTING = {
    "pickle.find_class": lambda run: pickle.loads((run / "evil.pkl").read_bytes()),
    "pickle.find_class by NumPy": lambda run: np.load(run / "evil.npy", allow_pickle=True),
    "compile": lambda run: exec((run / "evil.py").read_text()),
    "exec": lambda run: (sys.path.insert(0, str(run)), __import__("evil")),
    "subprocess.Popen": lambda run: subprocess.run([sys.executable, run / "evil.py"], check=False),
}


def main(run: Path) -> dict[str, list[str]]:
    """What each of the two kinds of reader has run, by its name."""
    prepare_jax()
    algorithm, console = stub_algorithm(), Console(file=io.StringIO(), width=200)
    configs.build = lambda config, **_: Built(stub_env(), algorithm)
    os.chdir(run)
    found = watch(run)
    look(run, console)
    ran = {"the library": [*found, *map(str, Path(run).rglob(MARK))]}
    for name, reader in TRUSTING.items():
        found.clear()
        reader(run)
        ran[name] = list(found)
    return ran


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve())))
