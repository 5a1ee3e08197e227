"""p(M): task families by name, and other JAX suites. Importing this package imports no Brax; making a Brax family does.

>>> env = make("cheetah-vel@promp2019", backend="spring", horizon=100)
"""

from typing import Any

from metarl_jax.base import TaskEnv
from metarl_jax.envs import registry as _registry
from metarl_jax.envs.bandits import BERNOULLI_BANDIT, GAUSSIAN_BANDIT
from metarl_jax.envs.cheetah import CHEETAH_DIR, CHEETAH_VEL
from metarl_jax.envs.point import POINT_NAV
from metarl_jax.envs.reacher import REACHER_GOAL
from metarl_jax.envs.registry import Card, Family
from metarl_jax.envs.reveal import reveal_task
from metarl_jax.envs.state import State
from metarl_jax.envs.suites import from_brax, from_gymnax, from_playground
from metarl_jax.envs.tabular import TABULAR_MDP
from metarl_jax.envs.tasks import BanditTask, DirectionTask, GoalTask, MDPTask, VelocityTask

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        GAUSSIAN_BANDIT,
        BERNOULLI_BANDIT,
        TABULAR_MDP,
        POINT_NAV,
        REACHER_GOAL,
        CHEETAH_DIR,
        CHEETAH_VEL,
    )
}


def make(name: str, *, backend: str | None = None, horizon: int | None = None, **options: Any) -> TaskEnv:
    """The environment of a name.

    Args:
        name: a family, such as "cheetah-vel", which means the first of its `versions`; or a full name with version,
            such as "cheetah-vel@promp2019".
        backend: the physics of a Brax family: "spring" (default), "generalized", "positional" or "mjx".
        horizon: environment steps per episode; the version's own if None.
        **options: the family's own, see ``card(name).options``.

    Raises:
        ValueError: a name, option, backend or value is not allowed; the line says which are.
    """
    return _registry.build(*_registry.find(FAMILIES, name), backend, horizon, options)


def names() -> tuple[str, ...]:
    """All families, without versions."""
    return tuple(FAMILIES)


def versions(name: str) -> tuple[str, ...]:
    """Full names of a family's versions, the one that the bare name means first.

    Raises:
        ValueError: there is no such family.
    """
    return _registry.full_names(_registry.find(FAMILIES, name)[0])


def card(name: str) -> Card:
    """What to know of an environment before comparing curves: definition, defaults, source, differences.

    Raises:
        ValueError: there is no such family or version.
    """
    return _registry.make_card(*_registry.find(FAMILIES, name))


__all__ = [
    "BanditTask",
    "Card",
    "DirectionTask",
    "Family",
    "GoalTask",
    "MDPTask",
    "State",
    "VelocityTask",
    "card",
    "from_brax",
    "from_gymnax",
    "from_playground",
    "make",
    "names",
    "reveal_task",
    "versions",
]
