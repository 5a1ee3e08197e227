"""Entry points of the commands metarl-train, metarl-evaluate, metarl-render, metarl-sweep and metarl-tasks."""

import importlib

from metarl_jax.runs.console import startup


def _start(name: str) -> int:
    startup.quiet()  # handles Ctrl-C during the imports
    return importlib.import_module(f"metarl_jax.commands.{name}").start()


def train() -> int:
    """experiments/train.py."""
    return _start("train")


def evaluate() -> int:
    """experiments/evaluate.py."""
    return _start("evaluate")


def render() -> int:
    """experiments/render.py."""
    return _start("render")


def sweep() -> int:
    """experiments/sweep.py."""
    return _start("sweep")


def tasks() -> int:
    """experiments/show_tasks.py."""
    return _start("show_tasks")
