"""Half-cheetah: run in a hidden direction, or at a hidden velocity.

Defined by Finn et al. 2017 (MAML, arXiv:1703.03400) and Rothfuss et al. 2019 (ProMP, arXiv:1810.06784). The velocity
is the finite difference of the torso's x position over one control step of 0.05 s; with model="rllab", it is the
centre of mass's after a step of 0.01 s. The simulator receives the control u = clip(a / action_scale, ±1) [6].
"""

from typing import Any, Unpack

import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.brax_adapter import RUNNING_BACKENDS
from metarl_jax.envs.locomotion import HALFCHEETAH, RLLAB_HALFCHEETAH, Body, locomotion_env, of_model
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.tasks import DirectionTask, VelocityTask


def cheetah_dir(*, name: str, model: str, **body: Unpack[Body]) -> TaskEnv:
    """r = d·v − control_cost·‖u‖₂² with a hidden d ∈ {−1, +1}, equally likely. Never ends early; v in m/s."""

    def gain(task: DirectionTask, v, x):
        return task.direction * v[0]

    robot = of_model(model, HALFCHEETAH, RLLAB_HALFCHEETAH)
    return locomotion_env(name, robot, lambda key: DirectionTask(sampling.sign(key)), gain, **body)


def cheetah_vel(*, name: str, model: str, target_range: tuple[float, float], **body: Unpack[Body]) -> TaskEnv:
    """r = −|v − v*| − control_cost·‖u‖₂² with a hidden v* ~ U(target_range) m/s. Never ends early; v in m/s."""
    target_range = checks.interval("target_range", target_range)

    def sample_task(key):
        return VelocityTask(sampling.uniform(key, target_range))

    def gain(task: VelocityTask, v, x):
        return -jnp.abs(v[0] - task.target)

    return locomotion_env(name, of_model(model, HALFCHEETAH, RLLAB_HALFCHEETAH), sample_task, gain, **body)


_BODY = {
    "horizon": 200,
    "action_scale": 1.0,
    "control_cost": 0.05,
    "observation": "joints",
    "mass_scale": 1.0,
    "model": "gym",
}
_PROMP = _BODY | {"horizon": 100, "action_scale": 10.0}
_RLLAB = _BODY | {"observation": "rllab", "model": "rllab"}
_COMMON: dict[str, Any] = {
    "observation": "joint positions (without x) and velocities [17]; pearl2019: the torso's position too [20]; "
    "rllab2017: the centre of mass too [20]",
    "start": "q = q_0 + U(±0.1), q̇ = 0.1·N(0, 1); rllab2017: q = q_0 + 0.01·N(0, 1)",
    "random_start": True,
    "source": "MAML, Finn et al. 2017, arXiv:1703.03400; ProMP, Rothfuss et al. 2019, arXiv:1810.06784",
    "differences": "finn2017: 200 steps, outputs clipped to ±1, on the robot of Gym and ProMP, 17 observations and "
    "0.05 s per step; the MAML paper used rllab's. promp2019: 100 steps, outputs of ±10 mapped onto the actuators' "
    "±1; with backend=mujoco the robot, steps, starts, observation and reward of ProMP's code "
    "(jonasrothfuss/ProMP, half_cheetah_rand_direc.py, half_cheetah_rand_vel.py). rllab2017: those of the MAML paper's "
    "code (cbfinn/maml_rl, half_cheetah_env_rand_direc.py, half_cheetah_env_rand.py, mujoco_env.py; "
    "rll/rllab, half_cheetah.xml, which is Gym's): 0.01 s per step, so 200 steps are two seconds, and the velocity "
    "of the centre of mass; v* ~ U(0, 2) as in the paper and the code's last commit (older ones: U(0.1, 0.8)). Current "
    "MuJoCo instead of 1.31 and 1.50; Brax's backends simulate different physics, so absolute returns differ.",
    "backends": RUNNING_BACKENDS,
    "version_backends": {"rllab2017": ("mujoco",)},
}

CHEETAH_DIR = Family(
    name="cheetah-dir",
    build=cheetah_dir,
    versions={"finn2017": _BODY, "promp2019": _PROMP, "rllab2017": _RLLAB},
    formula="d·v − 0.05·‖u‖²; never ends early",
    tasks="d ∈ {−1, +1}, equally likely",
    ood=Ood("the training tasks with a body half as heavy again", sampling.times("mass_scale", 1.5)),
    finite=2,
    **_COMMON,
)

CHEETAH_VEL = Family(
    name="cheetah-vel",
    build=cheetah_vel,
    versions={
        "finn2017": _BODY | {"target_range": (0.0, 2.0)},
        "promp2019": _PROMP | {"target_range": (0.0, 3.0)},
        "pearl2019": _BODY | {"target_range": (0.0, 3.0), "observation": "joints+torso"},
        "rllab2017": _RLLAB | {"target_range": (0.0, 2.0)},
    },
    formula="−|v − v*| − 0.05·‖u‖²; never ends early",
    tasks="v* ~ U(0, 2) m/s (finn2017, rllab2017) or U(0, 3) m/s (promp2019, pearl2019)",
    ood=Ood(
        "v* in the half range above: U(2, 3) m/s (finn2017, rllab2017), U(3, 4.5) m/s (promp2019, pearl2019)",
        sampling.above("target_range"),
    ),
    **_COMMON,
)

FAMILIES = (CHEETAH_DIR, CHEETAH_VEL)
