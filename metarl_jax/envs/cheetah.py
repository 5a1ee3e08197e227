"""Half-cheetah: run in a hidden direction, or at a hidden velocity.

Defined by Finn et al. 2017 (MAML, arXiv:1703.03400) and Rothfuss et al. 2019 (ProMP, arXiv:1810.06784). The velocity
is the finite difference of the torso's x position over one control step of 0.05 s; the control is what the simulator
receives.
"""

import jax
import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.brax_adapter import BACKENDS, Behavior, Simulator, brax_env
from metarl_jax.envs.registry import Family
from metarl_jax.envs.tasks import DirectionTask, VelocityTask
from metarl_jax.types import PyTree

ROBOT = "halfcheetah"
START_NOISE = 0.1


def _start(key, task, physics: Simulator):
    """q = q_0 + U(±0.1), q̇ = 0.1·N(0, 1) for every coordinate, as MuJoCo's half-cheetah starts."""
    position_key, velocity_key = jax.random.split(key)
    model = physics.env.sys
    noise = jax.random.uniform(position_key, (model.q_size(),), minval=-START_NOISE, maxval=START_NOISE)
    return model.init_q + noise, START_NOISE * jax.random.normal(velocity_key, (model.qd_size(),))


def _observe(pipeline_state: PyTree) -> jax.Array:
    """Joint positions without the torso's x, which no reward depends on, and all velocities: [17]."""
    return jnp.concatenate([pipeline_state.q[1:], pipeline_state.qd])


def _velocity(before: PyTree, after: PyTree, dt: float) -> jax.Array:
    return (after.x.pos[0, 0] - before.x.pos[0, 0]) / dt


def cheetah_dir(*, name: str, backend: str, horizon: int, action_scale: float, control_cost: float) -> TaskEnv:
    """r = d·v − control_cost·‖u‖₂² with a hidden d ∈ {−1, +1}, equal odds, and u = clip(a / action_scale, ±1) [6].

    Never ends early. Velocity v in m/s; observation [17].

    Args:
        name: of the environment.
        backend: a Brax physics backend.
        horizon: control steps per episode.
        action_scale: policy outputs are divided by it.
        control_cost: weight of ‖u‖².

    Raises:
        ValueError: an option is out of its range.
    """
    action_scale = checks.positive("action_scale", action_scale)
    control_cost = checks.non_negative("control_cost", control_cost)

    def sample_task(key):
        return DirectionTask(2.0 * jnp.asarray(jax.random.bernoulli(key), float) - 1.0)

    def reward(task: DirectionTask, before, after, control, dt):
        return task.direction * _velocity(before, after, dt) - control_cost * (control**2).sum()

    behavior = Behavior(sample_task, _start, _observe, reward)
    return brax_env(
        name=name, robot=ROBOT, backend=backend, horizon=horizon, action_scale=action_scale, behavior=behavior
    )


def cheetah_vel(
    *,
    name: str,
    backend: str,
    horizon: int,
    action_scale: float,
    control_cost: float,
    target_range: tuple[float, float],
) -> TaskEnv:
    """r = −|v − v*| − control_cost·‖u‖₂² with a hidden v* ~ U(target_range) m/s and u = clip(a / action_scale, ±1) [6].

    Never ends early. Velocity v in m/s; observation [17].

    Args:
        name: of the environment.
        backend: a Brax physics backend.
        horizon: control steps per episode.
        action_scale: policy outputs are divided by it.
        control_cost: weight of ‖u‖².
        target_range: (low, high) of the target velocity, m/s.

    Raises:
        ValueError: an option is out of its range.
    """
    action_scale = checks.positive("action_scale", action_scale)
    control_cost = checks.non_negative("control_cost", control_cost)
    low, high = checks.interval("target_range", target_range)

    def sample_task(key):
        return VelocityTask(jax.random.uniform(key, (), minval=low, maxval=high))

    def reward(task: VelocityTask, before, after, control, dt):
        return -jnp.abs(_velocity(before, after, dt) - task.target) - control_cost * (control**2).sum()

    behavior = Behavior(sample_task, _start, _observe, reward)
    return brax_env(
        name=name, robot=ROBOT, backend=backend, horizon=horizon, action_scale=action_scale, behavior=behavior
    )


_DIFFERENCES = (
    "Brax physics instead of MuJoCo's of 2017, so absolute returns differ. 17 observations (joint positions and "
    "velocities) where the papers' rllab cheetah has 20 (the torso's position too). finn2017: 200 steps, outputs "
    "clipped to ±1; promp2019: 100 steps, outputs of ±10 mapped onto the actuators' ±1."
)
_COMMON = {
    "observation": "joint positions (without x) and velocities [17]",
    "start": "q = q_0 + U(±0.1), q̇ = 0.1·N(0, 1)",
    "random_start": True,
    "source": "MAML, Finn et al. 2017, arXiv:1703.03400; ProMP, Rothfuss et al. 2019, arXiv:1810.06784",
    "backends": BACKENDS,
}

CHEETAH_DIR = Family(
    name="cheetah-dir",
    build=cheetah_dir,
    versions={
        "finn2017": {"horizon": 200, "action_scale": 1.0, "control_cost": 0.05},
        "promp2019": {"horizon": 100, "action_scale": 10.0, "control_cost": 0.05},
    },
    formula="d·v − 0.05·‖u‖²; never ends early",
    tasks="d ∈ {−1, +1}, equal odds",
    differences=_DIFFERENCES,
    **_COMMON,
)

CHEETAH_VEL = Family(
    name="cheetah-vel",
    build=cheetah_vel,
    versions={
        "finn2017": {"horizon": 200, "action_scale": 1.0, "control_cost": 0.05, "target_range": (0.0, 2.0)},
        "promp2019": {"horizon": 100, "action_scale": 10.0, "control_cost": 0.05, "target_range": (0.0, 3.0)},
    },
    formula="−|v − v*| − 0.05·‖u‖²; never ends early",
    tasks="v* ~ U(0, 2) m/s (finn2017) or U(0, 3) m/s (promp2019)",
    differences=_DIFFERENCES,
    **_COMMON,
)
