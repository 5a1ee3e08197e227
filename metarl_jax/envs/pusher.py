"""A seven-joint arm must push a cylinder to a hidden place on a table; robot and initial states as in Gym's pusher."""

from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.brax_adapter import BACKENDS, Behavior, Simulator, brax_env
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.tasks import GoalTask
from metarl_jax.types import PyTree

ARM = 7
"""joints of the arm; four more move the cylinder and the goal marker"""
WRIST, OBJECT = 6, 7
"""link indices: the wrist, which carries the finger tips and whose frame Gym uses in distances, and the cylinder"""
CENTER = (0.45, -0.05)
"""of the table, metres: position of the cylinder and the marker when their slide coordinates are 0"""


def _place(pipeline_state: PyTree, link: int) -> jax.Array:
    return pipeline_state.x.pos[link]


def _observe(pipeline_state: PyTree) -> jax.Array:
    """Angles and velocities of the arm, wrist and cylinder [7 + 7 + 3 + 3]; Brax's would reveal the goal."""
    wrist, cylinder = _place(pipeline_state, WRIST), _place(pipeline_state, OBJECT)
    return jnp.concatenate([pipeline_state.q[:ARM], pipeline_state.qd[:ARM], wrist, cylinder])


def _start(key, task: GoalTask, physics: Simulator):
    """Arm at 0, q̇ ~ U(±0.005), cylinder ~ U(−0.3, 0) × U(−0.2, 0.2) m from the table's centre, at least 0.17 m away."""
    velocity_key, cylinder_key = jax.random.split(key)
    low, high = jnp.array([-0.3, -0.2]), jnp.array([-1e-6, 0.2])
    cylinder = jax.random.uniform(cylinder_key, (2,), minval=low, maxval=high)
    cylinder *= jnp.maximum(1, 0.17 / jnp.linalg.norm(cylinder))
    velocity = jax.random.uniform(velocity_key, (ARM,), minval=-0.005, maxval=0.005)
    q = jnp.concatenate([physics.env.sys.init_q[:ARM], cylinder, task.goal - jnp.array(CENTER)])
    return q, jnp.concatenate([velocity, jnp.zeros(4)])


def pusher_goal(
    *,
    name: str,
    backend: str,
    horizon: int,
    action_scale: float,
    control_cost: float,
    near_weight: float,
    goal_range: tuple[float, float],
    goal_hole: float,
    mass_scale: float,
) -> TaskEnv:
    """r = −‖o − g‖₂ − near_weight·‖w − o‖₂ − control_cost·‖c‖₂², cylinder o, wrist w, hidden g on the table; metres.

    o and g are in the plane, w − o in space, after the step. The simulator receives c = 2·clip(a / action_scale, ±1)
    [7]. Never ends early.

    Args:
        name: name of the environment.
        backend: a Brax physics backend.
        horizon: control steps of 0.05 s per episode.
        action_scale: policy outputs are divided by it.
        control_cost: weight of ‖c‖².
        near_weight: weight of the distance from the wrist to the cylinder.
        goal_range: (low, high) of both coordinates of g relative to the table's centre, metres.
        goal_hole: excludes goals from a concentric square, as a fraction of the width.
        mass_scale: factor on the mass and inertia of each link.

    Raises:
        ValueError: an option is out of its range.
    """
    control_cost = checks.non_negative("control_cost", control_cost)
    near_weight = checks.non_negative("near_weight", near_weight)
    goal_range, goal_hole = checks.interval("goal_range", goal_range), checks.share("goal_hole", goal_hole)

    def sample_task(key):
        return GoalTask(jnp.array(CENTER) + sampling.in_square(key, goal_range, goal_hole))

    def reward(task: GoalTask, before, after, control, dt):
        cylinder = _place(after, OBJECT)
        far = jnp.linalg.norm(cylinder[:2] - task.goal)
        near = jnp.linalg.norm(_place(after, WRIST) - cylinder)
        return -far - near_weight * near - control_cost * (control**2).sum()

    behavior = Behavior(sample_task, _start, _observe, reward)
    return brax_env(
        name=name,
        robot="pusher",
        backend=backend,
        horizon=horizon,
        action_scale=action_scale,
        mass_scale=mass_scale,
        behavior=behavior,
    )


_OPTIONS: dict[str, Any] = {
    "horizon": 100,
    "action_scale": 1.0,
    "control_cost": 0.1,
    "near_weight": 0.5,
    "goal_range": (-0.15, 0.15),
    "goal_hole": 0.0,
    "mass_scale": 1.0,
}

PUSHER_GOAL = Family(
    name="pusher-goal",
    build=pusher_goal,
    versions={"v1": _OPTIONS},
    formula="−‖o − g‖₂ − 0.5·‖w − o‖₂ − 0.1·‖c‖² with cylinder o and wrist w; never ends early",
    tasks="g ~ (0.45, −0.05) + U[−0.15, 0.15]² m on the table",
    observation="angles and velocities of the arm, wrist, cylinder [20]",
    start="arm at 0, q̇ ~ U(±0.005), cylinder uniform behind the table's centre, at least 0.17 m away",
    random_start=True,
    source="this library, on Brax's pusher (arXiv:2106.13281)",
    differences="Gym's pusher has one fixed, visible goal; here it is random and hidden, and the distance to it is "
    "measured in the plane. Brax measures from another link's centre of mass; here, as in Gym, from the wrist's frame.",
    ood=Ood(
        "g uniform in the square of 1.5 times the width, outside the training square", sampling.around("goal_range")
    ),
    backends=BACKENDS,
)

FAMILIES = (PUSHER_GOAL,)
