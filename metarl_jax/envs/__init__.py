"""Task distributions p(M): families by name, and adapters for other JAX suites. Brax is imported only when it is used.

>>> env = make("cheetah-vel@promp2019", backend="spring", horizon=100)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from metarl_jax import checks
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
from metarl_jax.envs.suites import from_brax, from_gymnax, from_playground, from_xminigrid
from metarl_jax.envs.tasks import BanditTask, DirectionTask, DynamicsTask, GoalTask, MDPTask, TreasureTask, VelocityTask
from metarl_jax.recipes import Recipe
from metarl_jax.types import Key

_MODULES = (bandits, tabular, grid, rooms, point, reacher, pusher, cheetah, walker, ant, humanoid, perturbed)
FAMILIES: dict[str, Family] = {family.name: family for module in _MODULES for family in module.FAMILIES}
_BUILT_IN = frozenset(FAMILIES)


def make(
    name: str, *, split: str = "train", backend: str | None = None, horizon: int | None = None, **options: Any
) -> TaskEnv:
    """Builds an environment by name.

    Args:
        name: a family such as "cheetah-vel", which selects the first of its `versions`, or a full name with a version,
            such as "cheetah-vel@promp2019".
        split: the tasks that `sample_task` draws: "train"; "test", the same distribution with different draws for each
            key; or "ood", another distribution, outside the training range where possible. ``card(name).splits``
            describes them. Families with finitely many tasks have the same tasks in train and test.
        backend: the physics engine of a robot family: Brax's "spring" (default), "generalized", "positional" or "mjx";
            for the running robots also "mujoco", MuJoCo's C engine, the fastest on a CPU. ``card(name).backends`` lists
            the choices. "mujoco" runs on the host's cores; METARL_MUJOCO_THREADS limits their number.
        horizon: environment steps per episode; None: the version's default.
        **options: options of the family, see ``card(name).options``.

    Raises:
        ValueError: a name, option, split, backend or value is not allowed; the message lists the allowed ones.
        ImportError: the backend is "mujoco" and gymnasium, whose model files it reads, is not installed.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=20)
        >>> env.observation_size, env.action_size, env.horizon
        (2, 2, 20)
        >>> env.sample_task(jax.random.key(0)).goal.shape
        (2,)
        >>> mrl.envs.make("point-nva")
        Traceback (most recent call last):
        ValueError: unknown environment 'point-nva'; ...
    """
    env = _registry.build(*_registry.find(FAMILIES, name), split, backend, horizon, options)
    settings = {"split": split, "backend": backend, "horizon": horizon} | options
    return dataclasses.replace(env, recipe=Recipe(name, settings, env))


def register(
    name: str,
    build: Callable[..., TaskEnv],
    *,
    horizon: int,
    ood: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    card: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Registers a user's task family, as version v1, so that `make` and the scripts find it by name.

    Scripts load it with ``--import MODULE``, where MODULE calls this function.

    Args:
        name: name of the family, such as "my-walk".
        build: ``(name=, horizon=, **options) → TaskEnv`` with this horizon.
        horizon: default episode length T.
        ood: ``options → the options that the split "ood" changes, with their new values``; None: no such split.
        card: entries of the family's `card`: `formula`, `tasks`, `observation`, `start`, `source` and `differences` as
            text; `random_start`, `shared_dynamics` and `finite` as in `Card`.
        **options: options of `build`, with their defaults.

    Raises:
        ValueError: the name is invalid or belongs to the package, `build` does not accept these arguments, or the card
            has an unknown entry.

    Example:
        >>> def build(name, horizon, speed):
        ...     return dataclasses.replace(mrl.envs.make("point-nav", horizon=horizon, action_scale=speed), name=name)
        >>> mrl.envs.register("my-walk", build, horizon=50, speed=1.0)
        >>> mrl.envs.make("my-walk", speed=0.5).horizon
        50
    """
    if not isinstance(name, str) or not name or set(name) & set("@/ "):
        raise ValueError(f"name is {name!r}; it must be a word without '@', '/' and spaces")
    if name in _BUILT_IN:
        raise ValueError(f"{name!r} is a family of the package; choose another name")
    if reserved := {"name", "split", "backend"} & set(options):
        raise ValueError(f"{sorted(reserved)[0]!r} is what make takes itself, so it can be no option of {name!r}")
    checks.function("build", build)
    for entry in card or {}:
        checks.one_of("entry of the card", entry, _registry.CARD_OF_USER)
    horizon = checks.integer("horizon", horizon)
    FAMILIES[name] = _registry.of_user(name, build, horizon, ood, card or {}, options)


def names() -> tuple[str, ...]:
    """All families, without versions."""
    return tuple(FAMILIES)


def versions(name: str) -> tuple[str, ...]:
    """Full names of a family's versions, the default first.

    Raises:
        ValueError: there is no such family.
    """
    return _registry.full_names(_registry.find(FAMILIES, name)[0])


def check(
    env: Any, *, random_start: bool | None = None, shared_dynamics: bool | None = None, key: Key | None = None
) -> tuple[str, ...]:
    """Checks an environment; returns one sentence per fault. See `metarl_jax.envs.contract.faults`.

    Args:
        env: any `TaskEnv`.
        random_start: whether initial states should vary between episodes; None: as on the card of a registered family,
            else True.
        shared_dynamics: True if tasks should differ in their rewards only, so that no observation may depend on the
            task; None: as on the card of a registered family, else not checked.
        key: random key; None: ``jax.random.key(0)``.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=5)
        >>> mrl.envs.check(env)
        ()
        >>> unmoved = dataclasses.replace(env, step=lambda task, state, action: state.replace(reward=jnp.zeros(())))
        >>> any("reward" in fault for fault in mrl.envs.check(unmoved))
        True
    """
    name = str(getattr(env, "name", "")).split(" ")[0]
    family = FAMILIES.get(name.partition("@")[0])
    if family is not None and name in _registry.full_names(family):
        random_start = family.random_start if random_start is None else random_start
        shared_dynamics = family.shared_dynamics if shared_dynamics is None else shared_dynamics
    return _faults(env, random_start is not False, shared_dynamics, key)


def card(name: str) -> Card:
    """The card of an environment: definition, defaults, source, and differences from the literature.

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
    "from_xminigrid",
    "make",
    "names",
    "register",
    "reveal_task",
    "versions",
]
