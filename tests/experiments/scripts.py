"""What the tests of the scripts share."""

import importlib.util
import sys
from pathlib import Path

from metarl_jax.runs.storage.folder import LOCK

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = [
    *("--task", "gaussian-bandit", "--algorithm", "maml", "--iterations", "3", "--checkpoint-every", "2"),
    *("--tasks", "2", "--episodes", "4", "--hidden", "2", "--inner-lr", "0.1"),
    *("--eval-tasks", "3", "--eval-steps", "2"),
]


def load(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def contents(folder):
    """Every file below a folder with its bytes and its time, and every folder; of the lock, not its time."""
    return {
        str(path.relative_to(folder)): None
        if path.is_dir()
        else (path.read_bytes(), None if path.name == LOCK else path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }
