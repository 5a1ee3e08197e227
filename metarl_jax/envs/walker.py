"""The planar walker: run in a hidden direction, or at a hidden velocity (Rothfuss et al. 2019, arXiv:1810.06784).

The simulator receives the control u = clip(a / action_scale, ±1) [6]; velocity and height are the torso's. As in
Gym, an episode ends when the height leaves (0.8, 2) m or the torso leans more than 1 rad.
"""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.brax_adapter import RUNNING_BACKENDS
from metarl_jax.envs.locomotion import WALKER, Body, locomotion_env, torso
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.tasks import DirectionTask, VelocityTask
from metarl_jax.types import PyTree


def fallen(
    height_range: tuple[float, float], max_angle: float, max_speed: float = jnp.inf
) -> Callable[[PyTree], jax.Array]:
    """``pipeline state → bool``: the termination rule of Gym's planar runners.

    Args:
        height_range: (low, high) of the torso's height, metres.
        max_angle: bound on the torso's absolute angle, radians.
        max_speed: bound on the absolute values of q[2:] and q̇.
    """
    low, high = height_range

    def terminated(pipeline_state):
        height, angle = torso(pipeline_state)[2], pipeline_state.q[2]
        rest = jnp.concatenate([pipeline_state.q[2:], pipeline_state.qd])
        upright = (height > low) & (height < high) & (jnp.abs(angle) < max_angle)
        return ~(upright & (jnp.abs(rest) < max_speed).all())

    return terminated


WALKER_FALLEN = fallen((0.8, 2.0), 1.0)


def walker_dir(*, name: str, alive: float, **body: Unpack[Body]) -> TaskEnv:
    """r = d·v + alive − control_cost·‖u‖₂² with a hidden d ∈ {−1, +1}, equally likely; v in m/s."""

    def gain(task: DirectionTask, v, x):
        return task.direction * v[0]

    def sample_task(key):
        return DirectionTask(sampling.sign(key))

    return locomotion_env(name, WALKER, sample_task, gain, WALKER_FALLEN, alive=alive, **body)


def walker_vel(*, name: str, alive: float, target_range: tuple[float, float], **body: Unpack[Body]) -> TaskEnv:
    """r = −|v − v*| + alive − control_cost·‖u‖₂² with a hidden v* ~ U(target_range) m/s; velocity v in m/s."""
    target_range = checks.interval("target_range", target_range)

    def gain(task: VelocityTask, v, x):
        return -jnp.abs(v[0] - task.target)

    def sample_task(key):
        return VelocityTask(sampling.uniform(key, target_range))

    return locomotion_env(name, WALKER, sample_task, gain, WALKER_FALLEN, alive=alive, **body)


_BODY = {
    "horizon": 200,
    "action_scale": 10.0,
    "control_cost": 1e-3,
    "observation": "joints",
    "mass_scale": 1.0,
}
_COMMON: dict[str, Any] = {
    "observation": "q without x, and q̇ within ±10 [17]",
    "start": "q = q_0 + U(±0.005), q̇ ~ U(±0.005)",
    "random_start": True,
    "source": "ProMP, Rothfuss et al. 2019, arXiv:1810.06784",
    "backends": RUNNING_BACKENDS,
}
_DIFFERENCES = (
    "backend=mujoco: Gym's robot on current MuJoCo, walker2d.xml as up to v4, whose feet have friction 0.9 and 1.9 "
    "(v5: both 1.9), 0.008 s per step as in Gym (in ProMP's code, jonasrothfuss/ProMP, walker2d_rand_*.py, 0.016 s); "
    "Brax's backends simulate different physics, so absolute returns differ."
)
_FALLS = "ends when the torso's height leaves (0.8, 2) m or it leans more than 1 rad"

WALKER_DIR = Family(
    name="walker-dir",
    build=walker_dir,
    versions={"promp2019": _BODY | {"alive": 1.0}},
    formula=f"d·v + 1 − 0.001·‖u‖²; {_FALLS}",
    tasks="d ∈ {−1, +1}, equally likely",
    differences=_DIFFERENCES,
    ood=Ood("the training tasks with a body half as heavy again", sampling.times("mass_scale", 1.5)),
    finite=2,
    **_COMMON,
)

WALKER_VEL = Family(
    name="walker-vel",
    build=walker_vel,
    versions={"promp2019": _BODY | {"alive": 10.0, "target_range": (0.0, 10.0)}},
    formula=f"−|v − v*| + 10 − 0.001·‖u‖²; {_FALLS}",
    tasks="v* ~ U(0, 10) m/s",
    differences=f"{_DIFFERENCES} The alive reward is an option; 10 keeps the reward of each step positive for "
    "0 ≤ v ≤ 10, so that falling never pays; ProMP's code has 15.",
    ood=Ood("v* in the half range above: U(10, 15) m/s", sampling.above("target_range")),
    **_COMMON,
)

FAMILIES = (WALKER_DIR, WALKER_VEL)
