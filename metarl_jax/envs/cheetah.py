"""Half-cheetah: run in a hidden direction, or at a hidden velocity.

Defined by Finn et al. 2017 (MAML, arXiv:1703.03400) and Rothfuss et al. 2019 (ProMP, arXiv:1810.06784). The velocity
is the finite difference of the torso's x position over one control step of 0.05 s; the control u = clip(a /
action_scale, ±1) [6] is what the simulator receives.
"""

from typing import Any, Unpack

import jax.numpy as jnp

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.brax_adapter import RUNNING_BACKENDS
from metarl_jax.envs.locomotion import HALFCHEETAH, Body, locomotion_env
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.tasks import DirectionTask, VelocityTask


def cheetah_dir(*, name: str, **body: Unpack[Body]) -> TaskEnv:
    """r = d·v − control_cost·‖u‖₂² with a hidden d ∈ {−1, +1}, equal odds. Never ends early; velocity v in m/s."""

    def gain(task: DirectionTask, v, x):
        return task.direction * v[0]

    return locomotion_env(name, HALFCHEETAH, lambda key: DirectionTask(sampling.sign(key)), gain, **body)


def cheetah_vel(*, name: str, target_range: tuple[float, float], **body: Unpack[Body]) -> TaskEnv:
    """r = −|v − v*| − control_cost·‖u‖₂² with a hidden v* ~ U(target_range) m/s. Never ends early; v in m/s."""
    target_range = checks.interval("target_range", target_range)

    def sample_task(key):
        return VelocityTask(sampling.uniform(key, target_range))

    def gain(task: VelocityTask, v, x):
        return -jnp.abs(v[0] - task.target)

    return locomotion_env(name, HALFCHEETAH, sample_task, gain, **body)


_BODY = {"horizon": 200, "action_scale": 1.0, "control_cost": 0.05, "observation": "joints", "mass_scale": 1.0}
_PROMP = _BODY | {"horizon": 100, "action_scale": 10.0}
_COMMON: dict[str, Any] = {
    "observation": "joint positions (without x) and velocities [17]",
    "start": "q = q_0 + U(±0.1), q̇ = 0.1·N(0, 1)",
    "random_start": True,
    "source": "MAML, Finn et al. 2017, arXiv:1703.03400; ProMP, Rothfuss et al. 2019, arXiv:1810.06784",
    "differences": "Brax physics instead of MuJoCo's of 2017, so absolute returns differ. 17 observations (joint "
    "positions and velocities) where the papers' rllab cheetah has 20: observation=joints+torso adds the torso's "
    "position. finn2017: 200 steps, outputs clipped to ±1; promp2019: 100 steps, outputs of ±10 mapped onto the "
    "actuators' ±1.",
    "backends": RUNNING_BACKENDS,
}

CHEETAH_DIR = Family(
    name="cheetah-dir",
    build=cheetah_dir,
    versions={"finn2017": _BODY, "promp2019": _PROMP},
    formula="d·v − 0.05·‖u‖²; never ends early",
    tasks="d ∈ {−1, +1}, equal odds",
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
        "pearl2019": _BODY | {"target_range": (0.0, 3.0)},
    },
    formula="−|v − v*| − 0.05·‖u‖²; never ends early",
    tasks="v* ~ U(0, 2) m/s (finn2017) or U(0, 3) m/s (promp2019, pearl2019)",
    ood=Ood(
        "v* in the half range above: U(2, 3) m/s (finn2017), U(3, 4.5) m/s (promp2019, pearl2019)",
        sampling.above("target_range"),
    ),
    **_COMMON,
)

FAMILIES = (CHEETAH_DIR, CHEETAH_VEL)
