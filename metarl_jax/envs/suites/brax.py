"""Any Brax environment (Freeman et al. 2021, arXiv:2106.13281) with a user's reward, or a model changed by the task."""

from collections.abc import Callable
from typing import Any

import jax

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.brax_adapter import BACKENDS, quiet
from metarl_jax.envs.suites import physics
from metarl_jax.types import Key, PyTree


def from_brax(
    env: Any,
    *,
    sample_task: Callable[[Key], PyTree],
    reward: Callable[[PyTree, Any, jax.Array, Any], Any] | None = None,
    system: Callable[[PyTree, Any], Any] | None = None,
    observe: Callable[[Any], PyTree] | None = None,
    action_limit: float | None = 1.0,
    horizon: int = 1000,
    backend: str | None = None,
    name: str | None = None,
) -> TaskEnv:
    """A Brax environment whose task acts through its reward, its model, or both.

    `previous` and `next` are Brax's `State`s before and after a step, and `State.internal` is the current one. `done`
    means terminated: Brax implements time limits as wrappers, which are not used.

    Args:
        env: a `brax.envs.Env` without wrappers, or its registered name.
        sample_task: ``key → task``, any pytree of arrays.
        reward: ``(task, previous, action, next) → scalar``, where `action` is clipped; None: the environment's reward.
        system: ``(task, System) → System`` with changed values, for resets and steps; one compiled program runs all
            tasks. The physics of spring and positional reads `system.link.inertia`, that of mjx `system.body_mass`.
        observe: ``State → array`` (any shape; flattened), the policy's input; None: `State.obs`.
        action_limit: actions are clipped to ± this; None: not clipped. Brax's environments expect ±1.
        horizon: steps per episode; 1000 as in `brax.envs.create`.
        backend: only if `env` is a name: "spring" (default), "generalized", "positional" or "mjx".
        name: name of the environment; None: "brax:" followed by its name or class.

    Raises:
        ValueError: `env` is not a Brax environment, is wrapped, or its name is unknown; neither `reward` nor `system`
            is given; or another argument is invalid.
    """
    label = f"brax:{env if isinstance(env, str) else type(env).__name__}"
    with quiet():
        from brax import envs

        if isinstance(env, str):
            registered: Any = envs._envs  # pyright: ignore[reportAttributeAccessIssue]
            checks.one_of("Brax environment", env, registered)
            if backend is not None and backend not in BACKENDS:
                raise checks.unknown("backend of Brax", backend, BACKENDS)
            with jax.ensure_compile_time_eval():  # the model must hold concrete arrays, inside a traced function too
                env = envs.get_environment(env, backend=BACKENDS[0] if backend is None else backend)
        elif backend is not None:
            raise ValueError(f"backend is {backend!r}, and env an object that has chosen its own; leave backend out")
    if not isinstance(env, envs.Env):
        raise ValueError(f"env is {env!r}; it must be a brax.envs.Env object or a registered name")
    return physics.task_env(
        env,
        field="sys",
        sample_task=sample_task,
        reward=reward,
        system=system,
        observe=observe,
        action_limit=action_limit,
        horizon=horizon,
        name=label if name is None else name,
    )
