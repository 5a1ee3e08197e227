"""`TaskEnv`s on the physics of Brax (Freeman et al. 2021, arXiv:2106.13281).

Only Brax's physics is used. Initial states, observations and rewards are defined here, so that the task is an argument
of each step. Brax's wrappers are not used: they reset to one cached state, redraw tasks and break on typed keys.
Importing this module does not import Brax; calling `simulator` does, with its output silenced.
"""

import contextlib
import copy
import functools
import importlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.dynamics import Changes, scaled
from metarl_jax.envs.state import State, first, like
from metarl_jax.precision import full_precision
from metarl_jax.types import Key, PyTree

BACKENDS = ("spring", "generalized", "positional", "mjx")
"""Brax's backends. The first is the default: it compiles and runs fastest."""
RUNNING_BACKENDS = (*BACKENDS, "mujoco")
"""backends of the running robots, which also run on MuJoCo's C engine, see `metarl_jax.envs.mujoco_engine`"""


class Simulator(NamedTuple):
    """The physics of one robot on one backend."""

    env: Any
    """the Brax environment, or an object with its `sys` (the model), `action_size` and `backend`"""
    init: Callable[[Changes, jax.Array, jax.Array], PyTree]
    """``(changes, q, qd) → pipeline state``"""
    advance: Callable[..., PyTree]
    """``(changes, pipeline state, control, ended=False) → pipeline state`` one control step later. Where `ended` is
    true, the episode has ended and nothing reads the result: to save the time, MuJoCo's engine returns the state."""
    dt: float
    """seconds per control step"""
    scene: Callable[[PyTree], tuple[Any, Any]]
    """``pipeline state → (system, pipeline state)`` for a renderer, see `TaskEnv.scene`"""


class Behavior(NamedTuple):
    """Functions that define a task family of a robot; `before` and `after` are pipeline states of one control step."""

    sample_task: Callable[[Key], PyTree]
    start: Callable[[Key, PyTree, Simulator], tuple[jax.Array, jax.Array]]
    """``(key, task, simulator) → (q, qd)`` at the start of an episode"""
    observe: Callable[[PyTree], jax.Array]
    """``pipeline state → observation``"""
    reward: Callable[[PyTree, PyTree, PyTree, jax.Array, float], jax.Array]
    """``(task, before, after, control, dt) → reward``, with the control that the simulator received"""
    terminated: Callable[[PyTree], jax.Array] | None = None
    """``pipeline state → bool``; None: episodes never end early"""
    scale: Callable[[PyTree], Mapping[str, jax.Array]] = lambda task: {}
    """``task → {knob: factors}`` on the robot's physics, see `metarl_jax.envs.dynamics`"""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the output of importing and loading Brax: lines on stdout, Python warnings, MuJoCo warnings.

    MuJoCo warns about Brax's model files, by default also in a file MUJOCO_LOG.TXT in the working directory.
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

    `advance` is jitted and shared by all families of the robot, so outside a jitted program the physics compiles only
    once. Inside a larger jitted program it is inlined.

    Args:
        robot: Brax's name of the environment, such as "halfcheetah".
        backend: one of `RUNNING_BACKENDS`; required, since Brax's defaults differ between robots.

    Raises:
        ImportError: the backend is "mujoco" and gymnasium, whose model files it reads, is not installed.
    """
    if backend == "mujoco":
        from metarl_jax.envs.mujoco_engine import mujoco_simulator  # it imports this module

        return mujoco_simulator(robot)
    # The model's arrays get the float dtype in use when they are loaded.
    return _simulator(robot, backend, bool(jax.config.read("jax_enable_x64")))


@functools.lru_cache
def _simulator(robot: str, backend: str, x64: bool) -> Simulator:
    # The model must hold concrete arrays, even when the first `make` happens inside a traced function.
    with quiet(), jax.ensure_compile_time_eval():
        from brax import envs

        env: Any = envs.get_environment(robot, backend=backend)
        dt = float(env.dt)

    def init(changes, q, qd):
        return changed(env, changes).pipeline_init(q, qd)

    def advance(changes, pipeline_state, control, ended=False):
        model = changed(env, changes)
        if "link.inertia.mass" in changes and hasattr(pipeline_state, "mass"):
            # spring and positional store masses in the state at reset; a step uses the masses of its task argument.
            mass = jnp.broadcast_to(changes["link.inertia.mass"], pipeline_state.mass.shape)
            pipeline_state = pipeline_state.replace(mass=mass)
        after = model.pipeline_step(pipeline_state, control)
        return _with_current_positions(model, after) if backend == "mjx" else after

    def scene(pipeline_state):
        return env.sys.tree_replace({"opt.timestep": dt}), pipeline_state

    return Simulator(env, jax.jit(init), jax.jit(advance), dt, scene)


def changed(env: Any, changes: Changes) -> Any:
    """The Brax environment with `changes` applied to its model; the arrays may be traced."""
    if changes:
        env = copy.copy(env)
        env.sys = env.sys.tree_replace(dict(changes))
    return env


def _with_current_positions(env: Any, pipeline_state: PyTree) -> PyTree:
    """An mjx state after a control step, with link positions `x` recomputed from `q`.

    MuJoCo integrates at the end of a step, so its link positions lag one substep behind q, except at reset. Without
    this, the first velocity of an episode would be a fifth too small, and a tip position off by 2 cm.
    """
    from brax import kinematics

    return pipeline_state.replace(x=kinematics.forward(env.sys, pipeline_state.q, pipeline_state.qd)[0])


def brax_env(
    *, name: str, robot: str, backend: str, horizon: int, action_scale: float, mass_scale: float, behavior: Behavior
) -> TaskEnv:
    """A `TaskEnv` with this behaviour on Brax physics; `State.internal` is Brax's pipeline state.

    Args:
        name: name of the environment.
        robot: Brax's name of the robot.
        backend: one of `RUNNING_BACKENDS`.
        horizon: control steps per episode.
        action_scale: the simulator receives control = clip(action / action_scale, ±1) · c, where ±c is the actuators'
            range (1 for most robots).
        mass_scale: factor on the mass and inertia of each link.
        behavior: the functions of the family.

    Raises:
        ValueError: a scale is not positive.
    """
    action_scale = checks.positive("action_scale", action_scale)
    heavier = {} if checks.positive("mass_scale", mass_scale) == 1 else {"density": mass_scale}
    physics = simulator(robot, backend)
    # Brax's robots have symmetric control ranges; a range of ±1 needs no multiplication.
    limit = np.asarray(physics.env.sys.actuator.ctrl_range)[:, 1]
    limit = None if np.all(limit == 1) else limit

    def changes(task):
        return scaled(physics.env.sys, backend, heavier, behavior.scale(task))

    def reset(key, task):
        q, qd = behavior.start(key, task, physics)
        pipeline_state = physics.init(changes(task), q, qd)
        return first(behavior.observe(pipeline_state), internal=pipeline_state)

    def step(task, state: State, action):
        before = state.internal
        control = jnp.clip(action / action_scale, -1, 1)
        control = control if limit is None else control * limit
        after = like(before, physics.advance(changes(task), before, control, state.terminated))
        reward = behavior.reward(task, before, after, control, physics.dt)
        terminated = None if behavior.terminated is None else behavior.terminated(after)
        return state.following(behavior.observe(after), reward, internal=after, terminated=terminated)

    def probe(key):
        return reset(key, behavior.sample_task(key)).observation

    observation = jax.eval_shape(probe, jax.random.key(0))
    return TaskEnv(
        sample_task=behavior.sample_task,
        reset=full_precision(reset),
        step=full_precision(step),
        observation_size=observation.shape[-1],
        action_size=int(physics.env.action_size),
        horizon=horizon,
        name=name,
        scene=lambda task, state: physics.scene(state.internal),
    )
