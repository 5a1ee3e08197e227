"""Task-conditioned (oracle) environments: the task is part of the observation."""

import dataclasses

import jax
import jax.numpy as jnp

from metarl_jax.base import TaskEnv
from metarl_jax.envs.state import View


def reveal_task(env: TaskEnv) -> TaskEnv:
    """The same MDPs with the task's numbers appended to the flat observation: [observation_size + task size].

    A policy trained on it does not have to infer the task; its return is a reference for those that do.
    """
    numbers = jax.tree.leaves(jax.eval_shape(env.sample_task, jax.random.key(0)))
    size = env.observation_size + sum(leaf.size for leaf in numbers)

    def view(task, state):
        task_numbers = [jnp.ravel(leaf).astype(float) for leaf in jax.tree.leaves(task)]
        observation = jnp.concatenate([jnp.ravel(state.observation).astype(float), *task_numbers])
        return View(observation, state.reward, state.terminated, state.truncated, state)

    scene = env.scene
    return dataclasses.replace(
        env,
        reset=lambda key, task: view(task, env.reset(key, task)),
        step=lambda task, state, action: view(task, env.step(task, state.inner, action)),
        observation_size=size,
        name=f"{env.name} with the task revealed",
        scene=None if scene is None else lambda task, state: scene(task, state.inner),
    )
