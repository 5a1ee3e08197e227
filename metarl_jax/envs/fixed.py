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

    Example:
        >>> env = mrl.envs.make("point-nav")
        >>> one = mrl.envs.fix_task(env, mrl.envs.GoalTask(goal=[0.3, -0.1]))
        >>> one.sample_task(jax.random.key(0)).goal
        Array([ 0.3, -0.1], dtype=float32)
    """
    task = check_task(env, task)
    return dataclasses.replace(env, sample_task=lambda key: task, sample_tasks=None, name=f"{env.name} with one task")
