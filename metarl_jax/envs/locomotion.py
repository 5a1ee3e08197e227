"""Shared code of the running robots: initial states, observations, and the torso's velocity.

Velocities are finite differences of the torso's position over one control step, in m/s, as in ProMP's code and Gym.
For rllab's robots they are velocities of the centre of mass, as in the code of the MAML paper.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.brax_adapter import Behavior, Simulator, brax_env
from metarl_jax.types import Key, PyTree

OBSERVATIONS = ("joints", "joints+torso", "rllab")
MODELS = ("gym", "rllab")


def torso(pipeline_state: PyTree) -> jax.Array:
    """[3] position of the torso, metres."""
    return pipeline_state.x.pos[0]


def velocity(before: PyTree, after: PyTree, dt: float) -> jax.Array:
    """[3] mean velocity of the torso over one control step, m/s."""
    return (torso(after) - torso(before)) / dt


class Robot(NamedTuple):
    """A running robot. The first coordinates of q place the torso on the ground plane."""

    name: str
    """Brax's name, or one of `metarl_jax.envs.mujoco_models.SOURCES`"""
    horizontal: int
    """number of these coordinates: 1 if the robot moves in a vertical plane, else 2"""
    start: Callable[[Key, int], jax.Array]
    """``(key, size) → noise on q`` at reset"""
    start_velocity: Callable[[Key, int], jax.Array]
    """``(key, size) → q̇`` at reset"""
    max_velocity: float | None = None
    """observed velocities are clipped to ± this; None: not clipped"""
    velocity: Callable[[PyTree, PyTree, float], jax.Array] = velocity
    """``(before, after, dt) → [3]`` m/s, the velocity in the rewards"""
    observe: Callable[[PyTree], jax.Array] | None = None
    """``pipeline state → observation`` "rllab"; only for rllab's robots, which run on MuJoCo only"""


def _normal(std: float) -> Callable[[Key, int], jax.Array]:
    return lambda key, size: std * jax.random.normal(key, (size,))


def _uniform(width: float) -> Callable[[Key, int], jax.Array]:
    return lambda key, size: jax.random.uniform(key, (size,), minval=-width, maxval=width)


def _center_velocity(before: PyTree, after: PyTree, dt: float) -> jax.Array:
    """[3] velocity of the whole robot's centre of mass after the step, m/s."""
    return after.sensed[3:]


def _observe_cheetah(motion: PyTree) -> jax.Array:
    """q without x, q̇, centre of mass [20]."""
    return jnp.concatenate([motion.q[1:], motion.qd, motion.sensed[:3]])


def _observe_ant(motion: PyTree) -> jax.Array:
    """All of q and q̇, the torso's rotation matrix, centre of mass [41]."""
    w, x, y, z = motion.q[3:7] / jnp.linalg.norm(motion.q[3:7])
    cross = jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = jnp.eye(3) + 2 * (w * cross + cross @ cross)
    return jnp.concatenate([motion.q, motion.qd, rotation.ravel(), motion.sensed[:3]])


HALFCHEETAH = Robot("halfcheetah", 1, _uniform(0.1), _normal(0.1))
ANT = Robot("ant", 2, _uniform(0.1), _normal(0.1))
HOPPER = Robot("hopper", 1, _uniform(0.005), _uniform(0.005), max_velocity=10.0)
WALKER = Robot("walker2d", 1, _uniform(0.005), _uniform(0.005), max_velocity=10.0)
HUMANOID = Robot("humanoid", 2, _uniform(0.01), _uniform(0.01))
# Starts as in rllab's mujoco_env.py, velocity and observation as in half_cheetah_env_rand*.py and ant_env_rand*.py of
# github.com/cbfinn/maml_rl, the code of the MAML paper.
RLLAB_HALFCHEETAH = Robot(
    "halfcheetah-rllab", 1, _normal(0.01), _normal(0.1), velocity=_center_velocity, observe=_observe_cheetah
)
RLLAB_ANT = Robot("ant-rllab", 2, _normal(0.01), _normal(0.1), velocity=_center_velocity, observe=_observe_ant)


def of_model(model: str, gym: Robot, rllab: Robot) -> Robot:
    """The robot selected by the option `model`: "gym" or "rllab".

    Raises:
        ValueError: `model` has another value.
    """
    checks.one_of("model", model, MODELS)
    return gym if model == "gym" else rllab


class Body(TypedDict):
    """Options shared by the families of all running robots."""

    backend: str
    """physics backend"""
    horizon: int
    """control steps per episode"""
    action_scale: float
    """policy outputs are divided by it"""
    observation: str
    """"joints": q without the torso's ground position, and q̇; "joints+torso": also the torso's position [3];
    "rllab": as in the code of the MAML paper, for rllab's robots only"""
    mass_scale: float
    """factor on the mass and inertia of each link"""
    control_cost: float
    """weight of the squared control"""


def height_outside(limits: tuple[float, float]) -> Callable[[PyTree], jax.Array]:
    """``pipeline state → bool``: whether the torso's height is outside [low, high] (metres) or NaN."""
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

    v [3] is the torso's velocity over the step in m/s (for rllab's robots the centre of mass's after the step), x [3]
    the torso's position after the step in metres, and c the control that the simulator received.

    Args:
        name: name of the environment.
        robot: the robot.
        sample_task: ``key → task``.
        gain: ``(task, v, x) → scalar``, the task-dependent part of the reward.
        terminated: ``pipeline state → bool``; None: episodes never end early.
        scale: ``task → {knob: factors}``, see `metarl_jax.envs.dynamics`.
        alive: reward per step.
        **body: see `Body`.

    Raises:
        ValueError: an option is out of its range, or the robot does not run on the backend.
    """
    alive, control_cost = checks.finite("alive", alive), checks.non_negative("control_cost", body["control_cost"])
    if robot.observe is not None and body["backend"] != "mujoco":
        raise ValueError(f"backend is {body['backend']!r}, and model='rllab' runs on backend 'mujoco' alone")
    observations = OBSERVATIONS[: None if robot.observe else 2]
    checks.one_of("observation", body["observation"], observations)
    with_torso = body["observation"] == "joints+torso"

    def start(key, task, physics: Simulator):
        position_key, velocity_key = jax.random.split(key)
        model = physics.env.sys
        q = model.init_q + robot.start(position_key, model.q_size())
        return q, robot.start_velocity(velocity_key, model.qd_size())

    def observe(pipeline_state):
        if body["observation"] == "rllab":
            assert robot.observe is not None
            return robot.observe(pipeline_state)
        speed = pipeline_state.qd
        if robot.max_velocity is not None:
            speed = jnp.clip(speed, -robot.max_velocity, robot.max_velocity)
        position = [torso(pipeline_state)] if with_torso else []
        return jnp.concatenate([pipeline_state.q[robot.horizontal :], speed, *position])

    def reward(task, before, after, control, dt):
        return gain(task, robot.velocity(before, after, dt), torso(after)) + alive - control_cost * (control**2).sum()

    return brax_env(
        name=name,
        robot=robot.name,
        backend=body["backend"],
        horizon=body["horizon"],
        action_scale=body["action_scale"],
        mass_scale=body["mass_scale"],
        behavior=Behavior(sample_task, start, observe, reward, terminated, scale),
    )
