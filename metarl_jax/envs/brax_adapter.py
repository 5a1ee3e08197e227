"""Brax (Freeman et al. 2021, arXiv:2106.13281) as physics behind `TaskEnv`.

Only the physics of Brax is used: episode starts, observations and rewards are ours, so that the task is an argument of
every step; none of Brax's wrappers is (they reset to one cached state, redraw tasks and break on typed keys).
Importing this module does not import Brax; `simulator` does, and quietly.
"""

import contextlib
import functools
import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.base import TaskEnv
from metarl_jax.envs.state import State, first, like
from metarl_jax.types import Key, PyTree

BACKENDS = ("spring", "generalized", "positional", "mjx")
"""The first is the default: it compiles and runs cheapest."""


class Simulator(NamedTuple):
    """The physics of one robot on one backend."""

    env: Any
    """the Brax environment that holds the model; `env.sys` is what Brax's renderers want"""
    init: Callable[[jax.Array, jax.Array], PyTree]
    """``(q, qd) → pipeline state``"""
    advance: Callable[[PyTree, jax.Array], PyTree]
    """``(pipeline state, control) → pipeline state`` one control step later"""
    dt: float
    """seconds per control step"""


class Behavior(NamedTuple):
    """What makes a task family of a robot. `before` and `after` are Brax pipeline states around one control step."""

    sample_task: Callable[[Key], PyTree]
    start: Callable[[Key, PyTree, Simulator], tuple[jax.Array, jax.Array]]
    """``(key, task, simulator) → (q, qd)`` of a fresh episode"""
    observe: Callable[[PyTree], jax.Array]
    """``pipeline state → observation``"""
    reward: Callable[[PyTree, PyTree, PyTree, jax.Array, float], jax.Array]
    """``(task, before, after, control, dt) → reward``, with the control that the simulator received"""
    terminated: Callable[[PyTree], jax.Array] | None = None
    """``pipeline state → bool``; None where episodes never end early"""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what importing and loading Brax emit: lines on stdout, Python warnings, MuJoCo's warnings.

    MuJoCo warns of Brax's own model files, by default also in a MUJOCO_LOG.TXT that it drops in the working directory.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        mujoco: Any = importlib.import_module("mujoco")  # its stubs lack the callbacks
        previous = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(previous)


def simulator(robot: str, backend: str) -> Simulator:
    """The physics of a Brax robot, loaded once per process.

    `advance` is jitted and shared by all families of the robot: stepping by hand compiles the physics once for all of
    them. Inside a larger jitted program it is inlined.

    Args:
        robot: Brax's name of the environment, such as "halfcheetah".
        backend: one of `BACKENDS`; always passed on, since Brax's defaults differ between robots.
    """
    return _simulator(
        robot, backend, bool(jax.config.read("jax_enable_x64"))
    )  # the model's arrays have the dtype of the moment


@functools.lru_cache
def _simulator(robot: str, backend: str, x64: bool) -> Simulator:
    # The model must hold concrete arrays, even when the first `make` happens inside a traced function.
    with _quiet(), jax.ensure_compile_time_eval():
        from brax import envs

        env: Any = envs.get_environment(robot, backend=backend)
        advance = _with_current_positions(env) if backend == "mjx" else env.pipeline_step
        return Simulator(env, jax.jit(env.pipeline_init), jax.jit(advance), float(env.dt))


def _with_current_positions(env: Any) -> Callable[[PyTree, jax.Array], PyTree]:
    """The control step on mjx, with link positions `x` that belong to `q`.

    MuJoCo integrates last, so its link positions are those before the last of a control step's substeps, but current at
    reset: the first velocity of an episode would come out a fifth too small, and a tip 2 cm from where it is.
    """
    from brax import kinematics

    def advance(pipeline_state, control):
        after = env.pipeline_step(pipeline_state, control)
        return after.replace(x=kinematics.forward(env.sys, after.q, after.qd)[0])

    return advance


def brax_env(*, name: str, robot: str, backend: str, horizon: int, action_scale: float, behavior: Behavior) -> TaskEnv:
    """A `TaskEnv` of one behaviour on Brax physics; `State.internal` is Brax's pipeline state.

    Args:
        name: of the environment.
        robot: Brax's name of the robot.
        backend: one of `BACKENDS`.
        horizon: control steps per episode.
        action_scale: the simulator gets control = clip(action / action_scale, ±1), the actuators' range.
        behavior: of the family.
    """
    physics = simulator(robot, backend)

    def reset(key, task):
        q, qd = behavior.start(key, task, physics)
        pipeline_state = physics.init(q, qd)
        return first(behavior.observe(pipeline_state), internal=pipeline_state)

    def step(task, state: State, action):
        before = state.internal
        control = jnp.clip(action / action_scale, -1, 1)
        after = like(before, physics.advance(before, control))
        reward = behavior.reward(task, before, after, control, physics.dt)
        terminated = None if behavior.terminated is None else behavior.terminated(after)
        return state.following(behavior.observe(after), reward, internal=after, terminated=terminated)

    def probe(key):
        return reset(key, behavior.sample_task(key)).observation

    observation = jax.eval_shape(probe, jax.random.key(0))
    return TaskEnv(
        sample_task=behavior.sample_task,
        reset=reset,
        step=step,
        observation_size=observation.shape[-1],
        action_size=int(physics.env.action_size),
        horizon=horizon,
        name=name,
        scene=lambda task, state: (physics.env.sys.tree_replace({"opt.timestep": physics.dt}), state.internal),
    )
