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

    `previous` and `next` are Brax's `State`s around one step, and `State.internal` is the present one. `done` means
    terminated: Brax's time limits are wrappers, and none is used.

    Args:
        env: a `brax.envs.Env` without wrappers, or its registered name.
        sample_task: ``key → task``, any pytree of arrays.
        reward: ``(task, previous, action, next) → scalar``, with the action that the environment got; the environment's
            own if None.
        system: ``(task, System) → System`` with other numbers in it, for resets and steps; one compiled program runs
            all tasks. Physics on spring and positional read `system.link.inertia`, on mjx `system.body_mass`.
        observe: ``State → array`` (any shape; flattened), what the policy sees; `State.obs` if None.
        action_limit: actions are clipped to ± this; None: not clipped. Brax's own environments take ±1.
        horizon: steps per episode; 1000 is what `brax.envs.create` sets.
        backend: for a name only: "spring" (default), "generalized", "positional" or "mjx".
        name: of the environment; "brax:" and its name or class if None.

    Raises:
        ValueError: `env` is no Brax environment, is wrapped or has no such name, neither reward nor system is given, or
            another argument does not fit.
    """
    label = f"brax:{env if isinstance(env, str) else type(env).__name__}"
    with quiet():
        from brax import envs

        if isinstance(env, str):
            registered: Any = envs._envs  # pyright: ignore[reportAttributeAccessIssue]
            if env not in registered:
                raise checks.unknown("Brax environment", env, registered)
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
