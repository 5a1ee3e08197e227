"""One task for ever: where there is nothing to generalise to, but a long life to learn in."""

import dataclasses

from metarl_jax.base import TaskEnv
from metarl_jax.soundness import check_task
from metarl_jax.types import PyTree


def fix_task(env: TaskEnv, task: PyTree) -> TaskEnv:
    """The same MDPs, with a p(M) that has all its weight on one task: `sample_task` returns it for every key.

    Args:
        env: p(M) and its MDPs.
        task: such as ``env.sample_task(jax.random.key(0))``.

    Raises:
        ValueError: it is no task of this environment.

    Example:
        >>> env = mrl.envs.make("point-nav")
        >>> one = mrl.envs.fix_task(env, mrl.envs.GoalTask(goal=[0.3, -0.1]))
        >>> one.sample_task(jax.random.key(0)).goal
        Array([ 0.3, -0.1], dtype=float32)
    """
    task = check_task(env, task)
    return dataclasses.replace(env, sample_task=lambda key: task, name=f"{env.name} with one task")
