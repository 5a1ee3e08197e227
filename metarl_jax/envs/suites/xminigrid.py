"""XLand-MiniGrid (Nikulin et al. 2023, arXiv:2312.12044): a task is a ruleset, a goal and rules of a grid world."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.state import State
from metarl_jax.envs.suites import assembly
from metarl_jax.types import Key


def from_xminigrid(
    env: Any,
    sample_ruleset: Callable[[Key], Any],
    *,
    horizon: int | None = None,
    name: str | None = None,
    flatten: bool = True,
    **params: Any,
) -> TaskEnv:
    """An XLand-MiniGrid environment whose task is its `RuleSet`: the goal, the production rules and the objects.

    The agent sees the V × V tiles in front of it. The observation is their kind and colour, one-hot, as one float
    vector [V·V·(13 + 12)] or as a picture; it does not show the ruleset. There are 6 discrete actions. An episode ends
    when the goal is reached, with reward 1 − 0.9 t / max_steps, or after `max_steps` steps. A trial is H episodes of
    one ruleset, in which agent and objects start in new places: what the goal is must be found out in the first and
    used in the others.

    Args:
        env: a registered name, such as "XLand-MiniGrid-R1-9x9".
        sample_ruleset: ``key → RuleSet``, p(M), such as ``benchmark.sample_ruleset``; all with arrays of one shape.
        horizon: steps per episode; None: the environment's `max_steps`. If it is larger, `max_steps` truncates.
        name: name of the environment; None: "xminigrid:" followed by its registered name.
        flatten: False keeps the observation a picture [V, V, 13 + 12], which the default policies read by convolutions.
        **params: fields of the environment's parameters, such as `view_size` and `max_steps`.

    Raises:
        ImportError: xminigrid is missing.
        ValueError: the name is unknown or has no rulesets, `sample_ruleset` returns no ruleset, a parameter is unknown,
            or the horizon is not a positive integer.
    """
    checks.boolean("flatten", flatten)
    xminigrid = assembly.load("xminigrid", "xminigrid")
    constants = assembly.load("xminigrid.core.constants", "xminigrid")
    raw, defaults = _made(xminigrid, env, params)
    name = f"xminigrid:{env}" if name is None else name
    steps = checks.integer("horizon", int(defaults.max_steps) if horizon is None else horizon)
    checks.called_as("sample_ruleset", sample_ruleset, "key")

    def sample(key):
        ruleset = sample_ruleset(key)
        if jax.tree.structure(ruleset) != jax.tree.structure(defaults.ruleset):
            raise ValueError(
                f"sample_ruleset returned a {type(ruleset).__name__}; it must return an xminigrid.types.RuleSet"
            )
        return ruleset

    def moment(timestep):
        kind, color = timestep.observation[..., 0], timestep.observation[..., 1]
        seen = [jax.nn.one_hot(kind, constants.NUM_TILES), jax.nn.one_hot(color, constants.NUM_COLORS)]
        terminated = timestep.discount == 0
        truncated = timestep.last() & ~terminated
        observation = jnp.concatenate(seen, -1)
        return assembly.moment(name, observation, timestep.reward, terminated, truncated, timestep.state, flatten)

    def reset(key, task):
        return moment(raw.reset(defaults.replace(ruleset=task), key))

    def step(task, before: State, action):
        timestep = xminigrid.types.TimeStep(
            state=before.internal,
            step_type=xminigrid.types.StepType.MID,
            reward=before.reward,
            discount=jnp.ones(()),
            observation=None,
        )
        return moment(raw.step(defaults.replace(ruleset=task), timestep, action))

    return assembly.assemble(
        name=name,
        sample_task=assembly.sampler("sample_ruleset", sample),
        reset=reset,
        step=step,
        action_size=int(raw.num_actions(defaults)),
        discrete=True,
        horizon=steps,
    )


def _made(xminigrid: Any, env: Any, params: Mapping[str, Any]) -> tuple[Any, Any]:
    """The suite's environment of this name, and its parameters."""
    registered = [one for one in xminigrid.registered_environments() if one.startswith("XLand")]
    if not isinstance(env, str) or env not in registered:
        raise checks.unknown("XLand-MiniGrid environment", env, registered)
    raw, defaults = xminigrid.make(env)
    for option in params:
        if option not in vars(defaults) or option == "ruleset":
            raise checks.unknown(f"parameter of {env!r}", option, sorted({*vars(defaults)} - {"ruleset"}))
    return raw, defaults.replace(**params)
