"""The ant: run in a hidden direction, at a hidden velocity, or to a hidden place.

Defined by Finn et al. 2017 (MAML, arXiv:1703.03400), Rothfuss et al. 2019 (ProMP, arXiv:1810.06784), Rakelly et al.
2019 (PEARL, arXiv:1903.08254) and Gupta et al. 2018 (MAESN, arXiv:1802.07245). Positions and velocities are those of
the torso after the step; with model="rllab", velocities are those of the centre of mass. The simulator receives the
control u = clip(a / action_scale, ±1) [8]. Brax's faster backends have no contact forces, so the papers' contact cost
is omitted on all backends.
"""

import math
from typing import Any, Unpack

import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.brax_adapter import RUNNING_BACKENDS
from metarl_jax.envs.locomotion import ANT, RLLAB_ANT, Body, height_outside, locomotion_env, of_model
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.tasks import DirectionTask, GoalTask, VelocityTask

Range = tuple[float, float]


def _ant(
    name: str, sample_task, gain, *, alive: float, height_range: Range, model: str = "gym", **body: Unpack[Body]
) -> TaskEnv:
    """r = gain + alive − control_cost·‖u‖₂²; an episode ends when the torso's height leaves `height_range` (metres)."""
    terminated = height_outside(checks.interval("height_range", height_range))
    return locomotion_env(name, of_model(model, ANT, RLLAB_ANT), sample_task, gain, terminated, alive=alive, **body)


class _Ant(Body):
    alive: float
    height_range: Range


def ant_dir(*, name: str, model: str, **ant: Unpack[_Ant]) -> TaskEnv:
    """r = d·v_x + alive − control_cost·‖u‖₂² with a hidden d ∈ {−1, +1}, equally likely."""

    def gain(task: DirectionTask, v, x):
        return task.direction * v[0]

    return _ant(name, lambda key: DirectionTask(sampling.sign(key)), gain, model=model, **ant)


def ant_dir_2d(*, name: str, **ant: Unpack[_Ant]) -> TaskEnv:
    """r = ⟨v_xy, u*⟩ + alive − control_cost·‖u‖₂² with a hidden u*, uniform on the unit circle."""

    def gain(task: DirectionTask, v, x):
        return task.direction @ v[:2]

    return _ant(name, lambda key: DirectionTask(sampling.on_circle(key)), gain, **ant)


def ant_vel(*, name: str, model: str, target_range: Range, **ant: Unpack[_Ant]) -> TaskEnv:
    """r = 1 − |v_x − v*| + alive − control_cost·‖u‖₂² with a hidden v* ~ U(target_range) m/s."""
    target_range = checks.interval("target_range", target_range)

    def gain(task: VelocityTask, v, x):
        return 1 - jnp.abs(v[0] - task.target)

    return _ant(name, lambda key: VelocityTask(sampling.uniform(key, target_range)), gain, model=model, **ant)


def ant_goal(*, name: str, radius_range: Range, **body: Unpack[Body]) -> TaskEnv:
    """r = −‖xy − g‖₁ − control_cost·‖u‖₂² with a hidden g, uniform in a ring around the start. Never ends early.

    `radius_range` is the ring's (inner, outer) radius in metres; (0, 3) is the papers' disk.
    """
    inner, outer = checks.interval("radius_range", radius_range)
    checks.non_negative("the inner radius of radius_range", inner)

    def gain(task: GoalTask, v, x):
        return -jnp.abs(x[:2] - task.goal).sum()

    return locomotion_env(name, ANT, lambda key: GoalTask(sampling.in_ring(key, inner, outer)), gain, **body)


def ant_goal_box(*, name: str, goal_range: Range, goal_hole: float, **ant: Unpack[_Ant]) -> TaskEnv:
    """r = 4 − ‖xy − g‖₁ + alive − control_cost·‖u‖₂² with a hidden g ~ U[goal_range]².

    `goal_hole` excludes a concentric square, as a fraction of the width.
    """
    goal_range, goal_hole = checks.interval("goal_range", goal_range), checks.share("goal_hole", goal_hole)

    def gain(task: GoalTask, v, x):
        return 4 - jnp.abs(x[:2] - task.goal).sum()

    return _ant(name, lambda key: GoalTask(sampling.in_square(key, goal_range, goal_hole)), gain, **ant)


def ant_ring(*, name: str, angle_range: Range, radius: float, goal_radius: float, **ant: Unpack[_Ant]) -> TaskEnv:
    """As `ant_goal_box`, but sparse: farther than `goal_radius` from g, the distance is replaced by the constant ‖g‖₁.

    r = 4 − ‖xy − g‖₁ + alive − control_cost·‖u‖₂² where ‖xy − g‖₂ ≤ goal_radius, else with ‖g‖₁ for ‖xy − g‖₁. The
    hidden g lies on an arc of the circle of `radius` metres; its angle is uniform in `angle_range` (radians).
    """
    angle_range = checks.interval("angle_range", angle_range)
    radius, goal_radius = checks.positive("radius", radius), checks.positive("goal_radius", goal_radius)

    def gain(task: GoalTask, v, x):
        offset = x[:2] - task.goal
        near = jnp.linalg.norm(offset) <= goal_radius
        return 4 - jnp.where(near, jnp.abs(offset).sum(), jnp.abs(task.goal).sum())

    return _ant(name, lambda key: GoalTask(sampling.on_circle(key, angle_range, radius)), gain, **ant)


_BODY = {"horizon": 200, "action_scale": 1.0, "observation": "joints", "mass_scale": 1.0}
_WITH_POSITION = _BODY | {"observation": "joints+torso"}
_FINN = {"control_cost": 0.005, "alive": 0.05, "height_range": (0.2, 1.0)}
_GYM = {"control_cost": 0.5, "alive": 1.0, "height_range": (0.2, 1.0)}
_FALLS = "ends when the torso's height leaves"
_DIFFERENCES = (
    "No contact cost (5e-4·contact in the papers), which not all backends can compute; the papers' observation also "
    "has 84 contact forces. backend=mujoco: Gym's robot, 0.05 s per step, on current MuJoCo; Brax's backends simulate "
    "different physics, so absolute returns differ."
)
_RLLAB_DIFFERENCES = (
    f"{_DIFFERENCES} rllab2017: robot, starts, velocity and the other observations of the MAML paper's code "
    "(cbfinn/maml_rl, ant_env_rand*.py, mujoco_env.py; rll/rllab, ant.xml): the velocity of the centre of mass, and "
    "0.02 s per step, as in that file; Gym's ant.xml and other copies of rllab's have 0.01."
)
_MAML, _PROMP = "MAML, Finn et al. 2017, arXiv:1703.03400", "ProMP, Rothfuss et al. 2019, arXiv:1810.06784"
_PEARL = "PEARL, Rakelly et al. 2019, arXiv:1903.08254"
_COMMON: dict[str, Any] = {
    "observation": "q without the torso's place, and q̇ [27]",
    "start": "q = q_0 + U(±0.1), q̇ = 0.1·N(0, 1)",
    "random_start": True,
    "backends": RUNNING_BACKENDS,
}
_OR_RLLAB: dict[str, Any] = _COMMON | {
    "observation": f"{_COMMON['observation']}; rllab2017: all of q and q̇, the torso's rotation matrix, centre of mass "
    "[41]",
    "start": f"{_COMMON['start']}; rllab2017: q = q_0 + 0.01·N(0, 1), with legs bent and the torso at 0.55 m in q_0",
    "differences": _RLLAB_DIFFERENCES,
    "version_backends": {"rllab2017": ("mujoco",)},
}
_GYM_MODEL, _RLLAB = {"model": "gym"}, _BODY | _FINN | {"observation": "rllab", "model": "rllab"}
_POSITION: dict[str, Any] = _COMMON | {"observation": "q without the torso's place, q̇, and the torso's position [30]"}
HEAVIER = Ood("the training tasks with a body half as heavy again", sampling.times("mass_scale", 1.5))

ANT_DIR = Family(
    name="ant-dir",
    build=ant_dir,
    versions={
        "finn2017": _BODY | _FINN | _GYM_MODEL,
        "promp2019": _BODY | _GYM | _GYM_MODEL | {"action_scale": 10.0, "height_range": (0.0, 1.0)},
        "rllab2017": _RLLAB,
    },
    formula="d·v_x − c·‖u‖² + s, (c, s) = (0.005, 0.05) in finn2017 and rllab2017, (0.5, 1) in promp2019; "
    f"{_FALLS} [0.2, 1] m, in promp2019 [0, 1]",
    tasks="d ∈ {−1, +1}, equally likely",
    source=f"{_MAML}; {_PROMP}",
    ood=HEAVIER,
    finite=2,
    **_OR_RLLAB,
)

ANT_DIR_2D = Family(
    name="ant-dir-2d",
    build=ant_dir_2d,
    versions={
        "promp2019": _BODY | _GYM | {"action_scale": 10.0, "height_range": (0.0, 1.0)},
        "pearl2019": _BODY | _GYM,
    },
    formula=f"⟨v_xy, u*⟩ − 0.5·‖u‖² + 1; {_FALLS} [0.2, 1] m, in promp2019 [0, 1]",
    tasks="u* uniform on the unit circle",
    source=f"{_PROMP}; {_PEARL}",
    differences=_DIFFERENCES,
    ood=HEAVIER,
    **_COMMON,
)

ANT_VEL = Family(
    name="ant-vel",
    build=ant_vel,
    versions={
        "finn2017": _BODY | _FINN | _GYM_MODEL | {"target_range": (0.0, 3.0)},
        "rllab2017": _RLLAB | {"target_range": (0.0, 3.0)},
    },
    formula=f"1 − |v_x − v*| − 0.005·‖u‖² + 0.05; {_FALLS} [0.2, 1] m",
    tasks="v* ~ U(0, 3) m/s",
    source=_MAML,
    ood=Ood("v* in the half range above: U(3, 4.5) m/s", sampling.above("target_range")),
    **_OR_RLLAB,
)

ANT_GOAL = Family(
    name="ant-goal",
    build=ant_goal,
    versions={
        "promp2019": _WITH_POSITION | {"action_scale": 10.0, "control_cost": 0.1, "radius_range": (0.0, 3.0)},
        "pearl2019": _WITH_POSITION | {"control_cost": 0.1, "radius_range": (0.0, 3.0)},
    },
    formula="−‖xy − g‖₁ − 0.1·‖u‖²; never ends early",
    tasks="g uniform in the disk of radius 3 m",
    source=f"{_PROMP}; {_PEARL}",
    differences=_DIFFERENCES,
    ood=Ood("g uniform in the ring from 3 to 4.5 m", sampling.above("radius_range")),
    **_POSITION,
)

ANT_GOAL_BOX = Family(
    name="ant-goal-box",
    build=ant_goal_box,
    versions={"finn2017": _WITH_POSITION | _FINN | {"goal_range": (-3.0, 3.0), "goal_hole": 0.0}},
    formula=f"4 − ‖xy − g‖₁ − 0.005·‖u‖² + 0.05; {_FALLS} [0.2, 1] m",
    tasks="g ~ U[−3, 3]²",
    source=_MAML,
    differences=_DIFFERENCES,
    ood=Ood("g uniform in [−4.5, 4.5]² outside [−3, 3]²", sampling.around("goal_range")),
    **_POSITION,
)

ANT_RING = Family(
    name="ant-ring",
    build=ant_ring,
    versions={"maesn2018": _WITH_POSITION | _FINN | {"angle_range": (0.0, math.pi), "radius": 2.0, "goal_radius": 0.8}},
    formula=f"4 − ‖xy − g‖₁ − 0.005·‖u‖² + 0.05 within 0.8 m of g, else with ‖g‖₁ for ‖xy − g‖₁; {_FALLS} [0.2, 1] m",
    tasks="g on a half circle of radius 2 m, its angle ~ U(0, π)",
    source="MAESN, Gupta et al. 2018, arXiv:1802.07245",
    differences=f"{_DIFFERENCES} MAESN's code has rllab's ant with a lower gear ratio, and rllab's observation.",
    ood=Ood("g on the other half circle, its angle ~ U(π, 2π)", sampling.opposite("angle_range")),
    **_POSITION,
)

FAMILIES = (ANT_DIR, ANT_DIR_2D, ANT_VEL, ANT_GOAL, ANT_GOAL_BOX, ANT_RING)
