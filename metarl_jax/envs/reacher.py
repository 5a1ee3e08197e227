"""A two-link arm must bring its tip to a hidden goal; the fastest family to simulate in Brax."""

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.brax_adapter import BACKENDS, Behavior, Simulator, brax_env
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.tasks import GoalTask
from metarl_jax.types import PyTree

TIP = 0.11
"""metres from the elbow to the tip; the upper arm measures 0.1 m"""
ARM = 2
"""joints of the arm; Brax's model has two more, which only place the target marker"""


def _tip(pipeline_state: PyTree) -> jax.Array:
    """Position of the tip in the plane [2], metres: elbow + 0.11·(first column of the forearm's rotation)."""
    w, x, y, z = pipeline_state.x.rot[1]
    along = jnp.stack([w * w + x * x - y * y - z * z, 2 * (x * y + w * z)])
    return pipeline_state.x.pos[1, :2] + TIP * along


def _observe(pipeline_state: PyTree) -> jax.Array:
    """(cos θ, sin θ, θ̇, tip) of the two joints: [8]. Brax's observation would reveal the target."""
    angle = pipeline_state.q[:ARM]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle), pipeline_state.qd[:ARM], _tip(pipeline_state)])


def _start(key, task: GoalTask, physics: Simulator):
    """θ ~ U(±0.1), θ̇ ~ U(±0.005), as in Gym's reacher; the marker is at the goal, for renderers only."""
    position_key, velocity_key = jax.random.split(key)
    angle = jax.random.uniform(position_key, (ARM,), minval=-0.1, maxval=0.1)
    velocity = jax.random.uniform(velocity_key, (ARM,), minval=-0.005, maxval=0.005)
    q = jnp.concatenate([physics.env.sys.init_q[:ARM] + angle, task.goal])
    return q, jnp.concatenate([velocity, jnp.zeros_like(task.goal)])


def reacher_goal(
    *,
    name: str,
    backend: str,
    horizon: int,
    action_scale: float,
    control_cost: float,
    goal_radius: float,
    mass_scale: float,
) -> TaskEnv:
    """r = −‖tip − g‖₂ − control_cost·‖u‖₂² with a hidden g, uniform in a disk, and u = clip(a / action_scale, ±1) [2].

    Distances in metres, tip and goal in the plane, after the step. Never ends early; observation [8].

    Args:
        name: name of the environment.
        backend: a Brax physics backend.
        horizon: control steps of 0.02 s per episode.
        action_scale: policy outputs are divided by it.
        control_cost: weight of ‖u‖². Distances are about 0.2 and ‖u‖² up to 2, so Gym's weight of 1 would make standing
            still the best policy for every goal; at 0.01 even full torque costs a tenth of a typical distance.
        goal_radius: radius of the disk, metres. The arm reaches 0.1 + 0.11 = 0.21, so with 0.2 all goals are within
            reach, except in the 2 cm around the shoulder (1 % of the disk), which the elbow's limit of 3 rad excludes.
        mass_scale: factor on the mass and inertia of each link.

    Raises:
        ValueError: an option is out of its range.
    """
    control_cost = checks.non_negative("control_cost", control_cost)
    goal_radius = checks.positive("goal_radius", goal_radius)

    def sample_task(key):
        return GoalTask(sampling.in_ring(key, 0.0, goal_radius))

    def reward(task: GoalTask, before, after, control, dt):
        return -jnp.linalg.norm(_tip(after) - task.goal) - control_cost * (control**2).sum()

    behavior = Behavior(sample_task, _start, _observe, reward)
    return brax_env(
        name=name,
        robot="reacher",
        backend=backend,
        horizon=horizon,
        action_scale=action_scale,
        mass_scale=mass_scale,
        behavior=behavior,
    )


REACHER_GOAL = Family(
    name="reacher-goal",
    build=reacher_goal,
    versions={"v1": {"horizon": 50, "action_scale": 1.0, "control_cost": 0.01, "goal_radius": 0.2, "mass_scale": 1.0}},
    formula="−‖tip − g‖₂ − 0.01·‖u‖²; never ends early",
    tasks="g uniform in the disk of radius 0.2 m that the tip can reach",
    observation="cos θ, sin θ, θ̇, tip [8]",
    start="θ ~ U(±0.1), θ̇ ~ U(±0.005)",
    random_start=True,
    source="this library, on Brax's reacher (arXiv:2106.13281)",
    differences="Gym's reacher shows the target, charges 1·‖u‖² and draws the target's radius uniformly; here the "
    "target is hidden, the charge is 0.01 and the disk's density is uniform.",
    ood=Ood("the training tasks with an arm twice as heavy", sampling.times("mass_scale", 2.0)),
    backends=BACKENDS,
)

FAMILIES = (REACHER_GOAL,)
