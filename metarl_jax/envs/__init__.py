"""p(M): task families by name, and other JAX suites. Importing this package imports no Brax; making a Brax family does.

>>> env = make("cheetah-vel@promp2019", backend="spring", horizon=100)
"""

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
from metarl_jax.envs.suites import from_brax, from_gymnax, from_playground
from metarl_jax.envs.tasks import BanditTask, DirectionTask, DynamicsTask, GoalTask, MDPTask, TreasureTask, VelocityTask
from metarl_jax.types import Key

_MODULES = (bandits, tabular, grid, rooms, point, reacher, pusher, cheetah, walker, ant, humanoid, perturbed)
FAMILIES: dict[str, Family] = {family.name: family for module in _MODULES for family in module.FAMILIES}
_OWN = frozenset(FAMILIES)


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
    return _registry.build(*_registry.find(FAMILIES, name), split, backend, horizon, options)


def register(
    name: str,
    build: Callable[..., TaskEnv],
    *,
    horizon: int,
    ood: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    card: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Makes a family of one's own known by name, to `make` and to the scripts, as version v1.

    Scripts find it by ``--import MODULE``, where MODULE calls this function.

    Args:
        name: of the family, such as "my-walk".
        build: ``(name=, horizon=, **options) → TaskEnv``, of this horizon.
        horizon: T if no other is asked for.
        ood: ``options → those that the split "ood" changes``; None: there is no such split.
        card: what `card` is to say: `formula`, `tasks`, `observation`, `start`, `source`, `differences` in words,
            `random_start`, `shared_dynamics`, `finite` as in `Card`.
        **options: of `build`, with their defaults.

    Raises:
        ValueError: the name is one of the package's own, or no name; `build` cannot be called so; or the card has an
            unknown entry.

    Example:
        >>> def build(name, horizon, speed):
        ...     return dataclasses.replace(mrl.envs.make("point-nav", horizon=horizon, action_scale=speed), name=name)
        >>> mrl.envs.register("my-walk", build, horizon=50, speed=1.0)
        >>> mrl.envs.make("my-walk", speed=0.5).horizon
        50
    """
    if not isinstance(name, str) or not name or set(name) & set("@/ "):
        raise ValueError(f"name is {name!r}; it must be a word without '@', '/' and spaces")
    if name in _OWN:
        raise ValueError(f"{name!r} is a family of the package; choose another name")
    if taken := {"name", "split", "backend"} & set(options):
        raise ValueError(f"{sorted(taken)[0]!r} is what make takes itself, so it can be no option of {name!r}")
    checks.function("build", build)
    for entry in card or {}:
        if entry not in _registry.CARD_OF_USER:
            raise checks.unknown("entry of the card", entry, _registry.CARD_OF_USER)
    horizon = checks.integer("horizon", horizon)
    FAMILIES[name] = _registry.of_user(name, build, horizon, ood, card or {}, options)


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
    "register",
    "reveal_task",
    "versions",
]
