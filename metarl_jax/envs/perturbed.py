"""Robots whose physics differs between tasks, such as masses, friction and motor strength.

Walker and hopper as in Rakelly et al. 2019 (PEARL, arXiv:1903.08254) and Rothfuss et al. 2019 (ProMP,
arXiv:1810.06784); the cheetah's mass as in Clavera et al. 2019 (arXiv:1803.11347) and RLlib. All tasks of a family
have the same reward function.
"""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import jax

from metarl_jax import checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs import dynamics, sampling
from metarl_jax.envs.brax_adapter import RUNNING_BACKENDS, simulator
from metarl_jax.envs.locomotion import (
    ANT,
    HALFCHEETAH,
    HOPPER,
    WALKER,
    Body,
    Robot,
    height_outside,
    locomotion_env,
)
from metarl_jax.envs.registry import Family, Ood
from metarl_jax.envs.walker import WALKER_FALLEN, fallen
from metarl_jax.types import PyTree

MAX_EXPONENT = 10.0


class Perturbation(TypedDict):
    """Options of all families with perturbed physics, in addition to `Body`."""

    alive: float
    """reward per step"""
    knobs: tuple[str, ...]
    """physical parameters to scale, see `metarl_jax.envs.dynamics.FIELDS`"""
    per_element: bool
    """whether each link, geom, joint or motor has its own factor, rather than one for all"""
    exponent_range: tuple[float, float]
    """(low, high) of u in the factors b^u; b = 1.3 for damping, else 1.5"""


class _Options(Body, Perturbation): ...


def _perturbed(name: str, robot: Robot, terminated: Callable[[PyTree], jax.Array] | None, options: _Options) -> TaskEnv:
    """r = v_x + alive − control_cost·‖u‖₂², on a robot whose `knobs` are scaled by the task's hidden factors.

    Raises:
        ValueError: an option is out of its range, or a knob has no effect on the backend.
    """
    per_element = checks.boolean("per_element", options["per_element"])
    exponents = checks.interval("exponent_range", options["exponent_range"])
    knobs, backend = options["knobs"], options["backend"]
    if max(map(abs, exponents)) > MAX_EXPONENT:
        raise ValueError(
            f"exponent_range is {exponents}; it must lie in ±{MAX_EXPONENT}, factors of {1.5**MAX_EXPONENT:.0f}"
        )
    model = simulator(robot.name, backend).env.sys
    dynamics.check(model, backend, knobs)
    body: Body = {option: options[option] for option in Body.__annotations__}  # type: ignore

    def sample_task(key):
        return dynamics.sample_scales(key, model, backend, knobs, per_element=per_element, exponent_range=exponents)

    def gain(task, v, x):
        return v[0]

    return locomotion_env(
        name, robot, sample_task, gain, terminated, lambda task: task.scale, alive=options["alive"], **body
    )


def walker_params(*, name: str, **options: Unpack[_Options]) -> TaskEnv:
    """The walker, see `_perturbed`; an episode ends as in `walker_dir`."""
    return _perturbed(name, WALKER, WALKER_FALLEN, options)


def hopper_params(*, name: str, **options: Unpack[_Options]) -> TaskEnv:
    """The hopper; an episode ends below 0.7 m, when it leans more than 0.2 rad, or a coordinate exceeds 100."""
    return _perturbed(name, HOPPER, fallen((0.7, float("inf")), 0.2, 100.0), options)


def cheetah_mass(*, name: str, **options: Unpack[_Options]) -> TaskEnv:
    """The half-cheetah; never ends early."""
    return _perturbed(name, HALFCHEETAH, None, options)


def ant_params(*, name: str, **options: Unpack[_Options]) -> TaskEnv:
    """The ant; an episode ends when the torso's height leaves [0.2, 1] m."""
    return _perturbed(name, ANT, height_outside((0.2, 1.0)), options)


_BODY = {"horizon": 200, "action_scale": 1.0, "observation": "joints", "mass_scale": 1.0}
_PARAMETERS: dict[str, Any] = {
    "knobs": ("mass", "inertia", "friction", "damping"),
    "per_element": True,
    "exponent_range": (-3.0, 3.0),
}
_RUNNER = _BODY | {"control_cost": 1e-3, "alive": 1.0} | _PARAMETERS
_FACTORS = "factors 1.5^u on mass, inertia and friction, 1.3^u on damping, u ~ U(−3, 3) per link and geom"
_COMMON: dict[str, Any] = {"random_start": True, "shared_dynamics": False, "backends": RUNNING_BACKENDS}
_PLANAR: dict[str, Any] = _COMMON | {
    "start": "q = q_0 + U(±0.005), q̇ ~ U(±0.005)",
    "source": "PEARL, Rakelly et al. 2019, arXiv:1903.08254; ProMP, Rothfuss et al. 2019, arXiv:1810.06784",
    "differences": "backend=mujoco: Gym's robots on current MuJoCo, walker2d.xml as up to v4, which steps 0.008 s as "
    "in Gym (0.01 s in the papers' code, rand_param_envs); Brax's backends simulate different physics, so absolute "
    "returns differ. Inertia has one factor per link (in the papers one per axis), and damping one per degree of "
    "freedom. On spring and positional, whose joints have no damping, the damping of the joint constraints is scaled. "
    "pearl2019: outputs clipped to ±1; promp2019: outputs of ±10 mapped to ±1.",
    "ood": Ood(
        "all factors above the training range: u ~ U(3, 4), with knobs and elements as in training",
        sampling.beyond("exponent_range", 1.0),
    ),
}

WALKER_PARAMS = Family(
    name="walker-params",
    build=walker_params,
    versions={"pearl2019": _RUNNER, "promp2019": _RUNNER | {"action_scale": 10.0}},
    formula="v_x + 1 − 0.001·‖u‖²; ends when the torso's height leaves (0.8, 2) m or it leans more than 1 rad",
    tasks=_FACTORS,
    observation="q without x, and q̇ within ±10 [17]",
    **_PLANAR,
)

HOPPER_PARAMS = Family(
    name="hopper-params",
    build=hopper_params,
    versions={"pearl2019": _RUNNER, "promp2019": _RUNNER | {"action_scale": 10.0}},
    formula="v_x + 1 − 0.001·‖u‖²; ends below 0.7 m, when it leans more than 0.2 rad, or a coordinate exceeds 100",
    tasks=_FACTORS,
    observation="q without x, and q̇ within ±10 [11]",
    **_PLANAR,
)

CHEETAH_MASS = Family(
    name="cheetah-mass",
    build=cheetah_mass,
    versions={
        "v1": _BODY
        | {"control_cost": 0.1, "alive": 0.0, "knobs": ("density",), "per_element": False}
        | {"exponent_range": (-1.7, 1.7)}
    },
    formula="v_x − 0.1·‖u‖²; never ends early",
    tasks="one factor 1.5^u on mass and inertia of all links, u ~ U(−1.7, 1.7): from a half to double",
    observation="joint positions (without x) and velocities [17]",
    start="q = q_0 + U(±0.1), q̇ = 0.1·N(0, 1)",
    source="this library, after the mass tasks of RLlib and of Clavera et al. 2019, arXiv:1803.11347",
    differences="There is no standard definition; the reward is Gym's.",
    ood=Ood(
        "all factors above the training range: u ~ U(1.7, 2.7), two to three times as heavy",
        sampling.beyond("exponent_range", 1.0),
    ),
    **_COMMON,
)

ANT_PARAMS = Family(
    name="ant-params",
    build=ant_params,
    versions={
        "v1": _BODY
        | {"control_cost": 0.5, "alive": 1.0}
        | _PARAMETERS
        | {"knobs": ("mass", "inertia", "friction", "damping", "gear", "gravity"), "exponent_range": (-1.0, 1.0)}
    },
    formula="v_x + 1 − 0.5·‖u‖²; ends when the torso's height leaves [0.2, 1] m",
    tasks="factors 1.5^u on mass, inertia, friction, gear and gravity, 1.3^u on damping, u ~ U(−1, 1) per element",
    observation="q without the torso's place, and q̇ [27]",
    start="q = q_0 + U(±0.1), q̇ = 0.1·N(0, 1)",
    source="this library; the reward is Gym's ant's",
    differences="No comparable definition is known: papers that perturb the ant disable a leg instead.",
    ood=Ood(
        "all factors above the training range: u ~ U(1, 2)",
        sampling.beyond("exponent_range", 1.0),
    ),
    **_COMMON,
)

FAMILIES = (WALKER_PARAMS, HOPPER_PARAMS, CHEETAH_MASS, ANT_PARAMS)
