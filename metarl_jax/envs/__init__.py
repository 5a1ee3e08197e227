"""p(M): task families by name, and other JAX suites. Importing this package imports no Brax; making a Brax family does.

>>> env = make("cheetah-vel@promp2019", backend="spring", horizon=100)
"""

from typing import Any

from metarl_jax.base import TaskEnv
from metarl_jax.envs import (
    ant,
    bandits,
    cheetah,
    grid,
    humanoid,
    perturbed,
    point,
    pusher,
    reacher,
    rooms,
    tabular,
    walker,
)
from metarl_jax.envs import registry as _registry
from metarl_jax.envs.contract import faults as _faults
from metarl_jax.envs.fixed import fix_task
from metarl_jax.envs.registry import SPLITS, Card, Family
from metarl_jax.envs.reveal import reveal_task
from metarl_jax.envs.state import State
from metarl_jax.envs.suites import from_brax, from_gymnax, from_playground
from metarl_jax.envs.tasks import BanditTask, DirectionTask, DynamicsTask, GoalTask, MDPTask, TreasureTask, VelocityTask
from metarl_jax.types import Key

_MODULES = (bandits, tabular, grid, rooms, point, reacher, pusher, cheetah, walker, ant, humanoid, perturbed)
FAMILIES: dict[str, Family] = {family.name: family for module in _MODULES for family in module.FAMILIES}


def make(
    name: str, *, split: str = "train", backend: str | None = None, horizon: int | None = None, **options: Any
) -> TaskEnv:
    """The environment of a name.

    Args:
        name: a family, such as "cheetah-vel", which means the first of its `versions`; or a full name with version,
            such as "cheetah-vel@promp2019".
        split: whose tasks `sample_task` draws: "train"; "test", other draws from the same distribution, for every key;
            or "ood", another distribution, outside of the training range where that has an outside.
            ``card(name).splits`` says what they are. Families with finitely many tasks have the same ones in train and
            test.
        backend: the physics of a robot's family: "spring" (default), "generalized", "positional" or "mjx" of Brax, and
            for the running robots "mujoco", MuJoCo's C engine, the quickest on a CPU; ``card(name).backends`` says
            which. "mujoco" steps on the host's cores, of which METARL_MUJOCO_THREADS limits the number.
        horizon: environment steps per episode; the version's own if None.
        **options: the family's own, see ``card(name).options``.

    Raises:
        ValueError: a name, option, split, backend or value is not allowed; the line says which are.
        ImportError: the backend is "mujoco", and gymnasium, whose model files it reads, is not installed.
    """
    return _registry.build(*_registry.find(FAMILIES, name), split, backend, horizon, options)


def names() -> tuple[str, ...]:
    """All families, without versions."""
    return tuple(FAMILIES)


def versions(name: str) -> tuple[str, ...]:
    """Full names of a family's versions, the one that the bare name means first.

    Raises:
        ValueError: there is no such family.
    """
    return _registry.full_names(_registry.find(FAMILIES, name)[0])


def check(
    env: Any, *, random_start: bool | None = None, shared_dynamics: bool | None = None, key: Key | None = None
) -> tuple[str, ...]:
    """The faults of an environment, one sentence each; empty if there are none. See `metarl_jax.envs.contract.faults`.

    Args:
        env: a `TaskEnv` of any origin.
        random_start: whether episodes are meant to start differently; None: what the card of a registered family says,
            else True.
        shared_dynamics: True if tasks are meant to differ in their rewards only, so that no observation may depend on
            the task; None: what the card of a registered family says, else nothing.
        key: of the random draws.
    """
    name = str(getattr(env, "name", "")).split(" ")[0]
    family = FAMILIES.get(name.partition("@")[0])
    if family is not None and name in _registry.full_names(family):
        random_start = family.random_start if random_start is None else random_start
        shared_dynamics = family.shared_dynamics if shared_dynamics is None else shared_dynamics
    return _faults(env, random_start is not False, shared_dynamics, key)


def card(name: str) -> Card:
    """What to know of an environment before comparing curves: definition, defaults, source, differences.

    Raises:
        ValueError: there is no such family or version.
    """
    return _registry.make_card(*_registry.find(FAMILIES, name))


__all__ = [
    "SPLITS",
    "BanditTask",
    "Card",
    "DirectionTask",
    "DynamicsTask",
    "Family",
    "GoalTask",
    "MDPTask",
    "State",
    "TreasureTask",
    "VelocityTask",
    "card",
    "check",
    "fix_task",
    "from_brax",
    "from_gymnax",
    "from_playground",
    "make",
    "names",
    "reveal_task",
    "versions",
]
