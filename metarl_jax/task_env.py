"""p(M) and its MDPs: what every algorithm is made for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from metarl_jax import actions, checks, observations
from metarl_jax.recipes import Recipe
from metarl_jax.types import Key, Metrics, PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskEnv:
    """A distribution over MDPs p(M). The task is an ARGUMENT of `reset` and `step`; they never draw one.

    The state is any struct with the fields `observation`, `reward` (of the step that led here), `terminated` and
    `truncated`. `step` takes no key: a stochastic environment carries a key in its state. An episode whose observation
    or reward is NaN or infinite is void, see `metarl_jax.types.Trajectory`; it does not affect other episodes.

    Raises:
        ValueError: a size or the horizon is not a positive integer, a shape is none, or a function is not callable.

    Example:
        >>> from metarl_jax.envs import State
        >>> env = mrl.TaskEnv(
        ...     sample_task=lambda key: jax.random.normal(key, (1,)),
        ...     reset=lambda key, task: State(jax.random.normal(key, (1,)), 0.0, terminated=False, truncated=False),
        ...     step=lambda task, state, action: state.replace(reward=-jnp.abs(action - task).sum()),
        ...     observation_size=1,
        ...     action_size=1,
        ...     horizon=5,
        ... )
        >>> task = env.sample_task(jax.random.key(0))
        >>> state = env.step(task, env.reset(jax.random.key(1), task), task)
        >>> float(state.reward) == 0
        True
    """

    sample_task: Callable[[Key], PyTree] = dataclasses.field(repr=False)
    """``key → task``, any pytree of arrays; a function of the key alone. Other values that it reads, such as a variable
    of a curriculum, are constants of the compiled program: later changes have no effect. For another p(M) create a new
    environment with ``dataclasses.replace(env, sample_task=...)``, and an algorithm for it"""
    reset: Callable[[Key, PyTree], Any] = dataclasses.field(repr=False)
    """``(key, task) → state`` at the start of an episode, drawn from the key"""
    step: Callable[[PyTree, Any, jax.Array], Any] = dataclasses.field(repr=False)
    """``(task, state, action) → state``"""
    observation_size: int = None  # type: ignore[assignment]  # None only where it is handed in
    """length of the observation, a vector; with `observation_shape` it is left out, and then the number of all its
    components. Exactly one of the two is given, also in ``dataclasses.replace``, which takes None for the other"""
    observation_shape: PyTree = dataclasses.field(default=None, hash=False)
    """shape of another observation, such as (8, 8, 2) for a picture [height, width, channels], or a tree of shapes,
    such as ``{"picture": (8, 8, 1), "velocity": (2,)}`` for a dictionary; a `jax.ShapeDtypeStruct` fixes the dtype too,
    else it is the one that `reset` returns, or the one that holds its numbers and those of `step`. None: a vector"""
    action_size: int | tuple[int, ...]
    """number of action components, or of discrete actions; a tuple, such as (3, 2), is several discrete choices at
    once: an action is then an integer array [2], whose first entry is one of 3"""
    horizon: int
    """T, environment steps per episode"""
    discrete: bool = False
    name: str = "custom"
    scene: Callable[[PyTree, Any], tuple[Any, PyTree]] | None = dataclasses.field(default=None, repr=False)
    """``(task, state) → (system, pipeline state)`` in Brax's format, for rendering; the system's `opt.timestep` is the
    time between two states in seconds. None: the environment cannot be rendered in 3D"""
    sample_tasks: Callable[[Key, int], PyTree] | None = dataclasses.field(default=None, repr=False)
    """``(key, B) → tasks``, leaves [B, ...]: all tasks of a meta-iteration, where they are drawn together, such as as
    many of each kind; in random order if there are m minibatches, of which each has every m-th task. None: B
    independent draws of `sample_task`, which evaluation uses in any case. Agents that live on (`lpg`, `self-tuning`)
    are born in one of B such tasks"""
    measure: Callable[[Trajectory], Metrics] | None = dataclasses.field(default=None, repr=False)
    """``D of all tasks → metrics``, leaves [B, S, N, T, ...]: further metrics of a meta-iteration, such as the share of
    episodes that reached the goal; `Trajectory.valid` masks. Each is a finite array with its own name. Where agents
    live on, S leaves out stage 0, which the last meta-iteration measured. None: no more"""
    recipe: Recipe | None = dataclasses.field(default=None, repr=False, compare=False)
    """how `metarl_jax.envs.make` made it; None: otherwise"""

    def __post_init__(self):
        where = f"of the environment {self.name!r}"
        size = observations.size_and_shape(where, self.observation_size, self.observation_shape)
        object.__setattr__(self, "observation_size", size)
        checks.integer(f"horizon {where}", self.horizon)
        actions.check_size(f"action_size {where}", self.action_size, self.discrete)
        for field in ("sample_task", "reset", "step"):
            checks.function(f"{field} {where}", getattr(self, field))
        for field in ("scene", "sample_tasks", "measure"):
            if getattr(self, field) is not None:
                checks.function(f"{field} {where}", getattr(self, field))
        checks.boolean(f"discrete {where}", self.discrete)
