"""What the running robots share: how an episode starts, what the policy sees, and how fast the torso moves.

Velocities are finite differences of the torso's position over one control step, in m/s, as in the papers.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.brax_adapter import Behavior, Simulator, brax_env
from metarl_jax.types import Key, PyTree

OBSERVATIONS = ("joints", "joints+torso")


class Robot(NamedTuple):
    """One of Brax's robots. The first coordinates of q place the torso on the ground plane."""

    name: str
    """Brax's"""
    horizontal: int
    """how many of q's first coordinates do so: 1 where the robot moves in a plane, else 2"""
    start: float
    """half-width of the uniform noise on q at reset"""
    start_velocity: Callable[[Key, int], jax.Array]
    """``(key, size) → q̇`` at reset"""
    max_velocity: float | None = None
    """bound of the velocities that the policy sees; None: none"""


def _normal(std: float) -> Callable[[Key, int], jax.Array]:
    return lambda key, size: std * jax.random.normal(key, (size,))


def _uniform(width: float) -> Callable[[Key, int], jax.Array]:
    return lambda key, size: jax.random.uniform(key, (size,), minval=-width, maxval=width)


HALFCHEETAH = Robot("halfcheetah", 1, 0.1, _normal(0.1))
ANT = Robot("ant", 2, 0.1, _normal(0.1))
HOPPER = Robot("hopper", 1, 0.005, _uniform(0.005), max_velocity=10.0)
WALKER = Robot("walker2d", 1, 0.005, _uniform(0.005), max_velocity=10.0)
HUMANOID = Robot("humanoid", 2, 0.01, _uniform(0.01))


class Body(TypedDict):
    """Options that the families of all running robots have in common, beside their own."""

    backend: str
    """a Brax physics backend"""
    horizon: int
    """control steps per episode"""
    action_scale: float
    """policy outputs are divided by it"""
    observation: str
    """"joints": q without the torso's place on the ground, and q̇; "joints+torso": the torso's position [3] too"""
    mass_scale: float
    """factor on mass and inertia of every link"""
    control_cost: float
    """weight of the squared control"""


def torso(pipeline_state: PyTree) -> jax.Array:
    """[3] position of the torso, metres."""
    return pipeline_state.x.pos[0]


def velocity(before: PyTree, after: PyTree, dt: float) -> jax.Array:
    """[3] of the torso over one control step, m/s."""
    return (torso(after) - torso(before)) / dt


def height_outside(limits: tuple[float, float]) -> Callable[[PyTree], jax.Array]:
    """``pipeline state → bool``: the torso's height is not within [low, high], metres."""
    low, high = limits

    def terminated(pipeline_state):
        height = torso(pipeline_state)[2]
        return ~((height >= low) & (height <= high))

    return terminated


def locomotion_env(
    name: str,
    robot: Robot,
    sample_task: Callable[[Key], PyTree],
    gain: Callable[[PyTree, jax.Array, jax.Array], jax.Array],
    terminated: Callable[[PyTree], jax.Array] | None = None,
    scale: Callable[[PyTree], Mapping[str, jax.Array]] = lambda task: {},
    *,
    alive: float = 0.0,
    **body: Unpack[Body],
) -> TaskEnv:
    """A family of one running robot: r = gain(task, v, x) + alive − control_cost·‖c‖₂².

    v is the torso's velocity over the step and x its position after it, [3] each, in m/s and metres; c is the control
    that the simulator received.

    Args:
        name: of the environment.
        robot: that runs.
        sample_task: ``key → task``.
        gain: ``(task, v, x) → scalar``, what the task pays for.
        terminated: ``pipeline state → bool``; None where episodes never end early.
        scale: ``task → {knob: factors}``, see `metarl_jax.envs.dynamics`.
        alive: reward of every step.
        **body: see `Body`.

    Raises:
        ValueError: an option is out of its range.
    """
    alive, control_cost = checks.finite("alive", alive), checks.non_negative("control_cost", body["control_cost"])
    if body["observation"] not in OBSERVATIONS:
        raise checks.unknown("observation", body["observation"], OBSERVATIONS)
    sees_torso = body["observation"] == "joints+torso"

    def start(key, task, physics: Simulator):
        position_key, velocity_key = jax.random.split(key)
        model = physics.env.sys
        noise = jax.random.uniform(position_key, (model.q_size(),), minval=-robot.start, maxval=robot.start)
        return model.init_q + noise, robot.start_velocity(velocity_key, model.qd_size())

    def observe(pipeline_state):
        speed = pipeline_state.qd
        if robot.max_velocity is not None:
            speed = jnp.clip(speed, -robot.max_velocity, robot.max_velocity)
        place = [torso(pipeline_state)] if sees_torso else []
        return jnp.concatenate([pipeline_state.q[robot.horizontal :], speed, *place])

    def reward(task, before, after, control, dt):
        return gain(task, velocity(before, after, dt), torso(after)) + alive - control_cost * (control**2).sum()

    return brax_env(
        name=name,
        robot=robot.name,
        backend=body["backend"],
        horizon=body["horizon"],
        action_scale=body["action_scale"],
        mass_scale=body["mass_scale"],
        behavior=Behavior(sample_task, start, observe, reward, terminated, scale),
    )
