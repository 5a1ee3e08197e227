"""MuJoCo Playground (Zakka et al. 2025, arXiv:2502.08844) with a user's reward or a model that the task changes."""

from collections.abc import Callable
from typing import Any

import jax

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.brax_adapter import quiet
from metarl_jax.envs.suites import assembly, physics
from metarl_jax.types import Key, PyTree


def from_playground(
    env: Any,
    *,
    sample_task: Callable[[Key], PyTree],
    reward: Callable[[PyTree, Any, jax.Array, Any], Any] | None = None,
    system: Callable[[PyTree, Any], Any] | None = None,
    observe: Callable[[Any], PyTree] | None = None,
    action_limit: float | None = 1.0,
    horizon: int | None = None,
    name: str | None = None,
) -> TaskEnv:
    """A MuJoCo Playground environment whose task acts through its reward, its model, or both.

    `previous` and `next` are Playground's `State`s before and after a step, and `State.internal` is the current one.
    `done` means terminated, and wrappers are not used. Names refer to the dm_control suite, loaded with MJX's solver
    (``impl="jax"``; Playground's default is Warp). Environments of the other suites must be passed as objects; loading
    them downloads their robots.

    Args:
        env: an `mujoco_playground.MjxEnv` without wrappers, or a name such as "PointMass".
        sample_task: ``key → task``, any pytree of arrays.
        reward: ``(task, previous, action, next) → scalar``, where `action` is clipped; None: the environment's reward.
        system: ``(task, mjx.Model) → mjx.Model`` with changed values, for resets and steps: domain randomisation. One
            compiled program runs all tasks. Quantities that an environment precomputed from its model do not change.
        observe: ``State → array`` (any shape; flattened), the policy's input; None: `State.obs`, which must then be an
            array, not a dictionary.
        action_limit: actions are clipped to ± this; None: not clipped. Playground's environments expect ±1.
        horizon: steps per episode; None: `episode_length` of the environment's configuration.
        name: name of the environment; None: "playground:" followed by its name or class.

    Raises:
        ImportError: MuJoCo Playground is missing.
        ValueError: `env` is not a Playground environment, is wrapped, or its name is unknown; neither `reward` nor
            `system` is given; or another argument is invalid.
    """
    label = f"playground:{env if isinstance(env, str) else type(env).__name__}"
    with quiet():
        playground = assembly.load("mujoco_playground", "playground")
        suite = playground.dm_control_suite
        if isinstance(env, str):
            checks.one_of("environment of Playground's dm_control suite", env, suite.ALL_ENVS)
            with jax.ensure_compile_time_eval():  # the model must hold concrete arrays, inside a traced function too
                env = suite.load(env, config_overrides={"impl": "jax"})
    if not isinstance(env, playground.MjxEnv):
        raise ValueError(
            f"env is {env!r}; it must be an object of mujoco_playground.registry.load or a name of the dm_control suite"
        )
    if horizon is None:
        horizon = getattr(getattr(env, "_config", None), "episode_length", None)
        if horizon is None:
            raise ValueError(f"the configuration of {label!r} has no episode_length; give the horizon")
    return physics.task_env(
        env,
        field="_mjx_model",
        sample_task=sample_task,
        reward=reward,
        system=system,
        observe=observe,
        action_limit=action_limit,
        horizon=horizon,
        name=label if name is None else name,
    )
