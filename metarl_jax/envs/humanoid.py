"""The humanoid: run in a hidden direction (Rothfuss et al. 2019, arXiv:1810.06784; Rakelly et al. 2019)."""

from typing import Unpack

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import sampling
from metarl_jax.envs.brax_adapter import RUNNING_BACKENDS
from metarl_jax.envs.locomotion import HUMANOID, Body, height_outside, locomotion_env
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.tasks import DirectionTask


def humanoid_dir(
    *, name: str, velocity_weight: float, alive: float, height_range: tuple[float, float], **body: Unpack[Body]
) -> TaskEnv:
    """r = velocity_weight·⟨v_xy, u*⟩ + alive − control_cost·‖c‖₂² with a hidden u*, uniform on the unit circle.

    v is the torso's velocity in m/s, and c = 0.4·clip(a / action_scale, ±1) [17]. An episode ends when the torso's
    height leaves `height_range` (metres).
    """
    weight = checks.positive("velocity_weight", velocity_weight)
    terminated = height_outside(checks.interval("height_range", height_range))

    def gain(task: DirectionTask, v, x):
        return weight * (task.direction @ v[:2])

    def sample_task(key):
        return DirectionTask(sampling.on_circle(key))

    return locomotion_env(name, HUMANOID, sample_task, gain, terminated, alive=alive, **body)


_BODY = {
    "horizon": 200,
    "action_scale": 1.0,
    "control_cost": 0.1,
    "velocity_weight": 1.0,
    "alive": 5.0,
    "height_range": (1.0, 2.0),
    "observation": "joints",
    "mass_scale": 1.0,
}

HUMANOID_DIR = Family(
    name="humanoid-dir",
    build=humanoid_dir,
    versions={"pearl2019": _BODY, "promp2019": _BODY | {"action_scale": 10.0}},
    formula="⟨v_xy, u*⟩ − 0.1·‖c‖² + 5; ends when the torso's height leaves [1, 2] m",
    tasks="u* uniform on the unit circle",
    observation="q without the torso's place, and q̇ [45]",
    start="q = q_0 + U(±0.01), q̇ ~ U(±0.01)",
    random_start=True,
    source="ProMP, Rothfuss et al. 2019, arXiv:1810.06784; PEARL, Rakelly et al. 2019, arXiv:1903.08254",
    differences="backend=mujoco: Gym's robot on current MuJoCo; Brax's backends simulate different physics, so "
    "absolute returns differ. The torso's velocity instead of the centre of mass's; no contact cost (5e-7·contact in "
    "the papers); the papers' codes weight the velocity by 1.25 (a quarter of the way in 5 frames, over one frame's "
    "0.003 s), which is velocity_weight=1.25; the papers' 376 observations add inertias, forces and contacts, which "
    "are functions of the observed state.",
    ood=Ood("the training tasks with a body half as heavy again", sampling.times("mass_scale", 1.5)),
    backends=RUNNING_BACKENDS,
)

FAMILIES = (HUMANOID_DIR,)
