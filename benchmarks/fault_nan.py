"""Runs experiments/train.py with injected NaNs, for `benchmarks.faults`."""

import dataclasses
from collections.abc import Callable, Sequence
from unittest import mock

import jax
import jax.numpy as jnp

from experiments import train
from metarl_jax import envs
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.runs import config as configs
from metarl_jax.runs.console import cli
from metarl_jax.types import MetaState

PROGRAM = (
    "import sys; from benchmarks.fault_nan import main; sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))"
)
"""Program for ``python -c``, followed by WHERE, ITERATION and the arguments of experiments/train.py."""


def nan_rewards(env: TaskEnv) -> TaskEnv:
    """An environment with NaN rewards in all tasks with a goal to the right."""

    def step(task, state, action):
        state = env.step(task, state, action)
        return state.replace(reward=jnp.where(task.goal[0] > 0, jnp.nan, state.reward))

    return dataclasses.replace(env, step=step)


def nan_update(algorithm: MetaAlgorithm, iteration: int) -> MetaAlgorithm:
    """An algorithm with a NaN outer gradient, and thus a NaN θ, in one iteration."""

    def update(key, state):
        new, metrics = algorithm.update(key, state)
        poison = jnp.where(state.iteration == iteration, jnp.nan, 0.0)
        params = jax.tree.map(lambda leaf: leaf + poison.astype(leaf.dtype), new.params)
        return MetaState(params, new.opt_state, new.iteration), metrics

    return algorithm._replace(update=update)


def _changed(owner: object, name: str, change: Callable) -> mock._patch:
    """Inside the context, environments or algorithms built for training are changed, but not those for evaluation."""
    build = getattr(owner, name)

    def changed(*args, split: str = "train", **options):
        built = build(*args, split=split, **options)
        return change(built) if split == "train" else built

    return mock.patch.object(owner, name, changed)


def main(where: str, iteration: int, arguments: Sequence[str]) -> int:
    """Runs the training script with NaN rewards in a "task", or a NaN "gradient" at one iteration."""
    if where == "task":
        patch = _changed(envs, "make", nan_rewards)
    else:
        patch = _changed(
            configs, "build", lambda built: built._replace(algorithm=nan_update(built.algorithm, iteration))
        )
    with patch:
        return cli.run(train.main, arguments)
