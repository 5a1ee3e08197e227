"""Environments with a single fixed task, for example to study learning over one long lifetime."""

import dataclasses

from metarl_jax.base import TaskEnv
from metarl_jax.soundness import check_task
from metarl_jax.types import PyTree


def fix_task(env: TaskEnv, task: PyTree) -> TaskEnv:
    """The same MDPs with a degenerate p(M): `sample_task` returns `task` for every key.

    Args:
        env: the environment.
        task: a task of it, such as ``env.sample_task(jax.random.key(0))``.

    Raises:
        ValueError: `task` is not a task of this environment.
    """
    task = check_task(env, task)
    return dataclasses.replace(env, sample_task=lambda key: task, name=f"{env.name} with one task")
