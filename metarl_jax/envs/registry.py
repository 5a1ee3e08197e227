"""From a name such as ``cheetah-vel@finn2017`` to an environment.

Six things silently differ between papers under one family name: task range, horizon, observation, control cost, contact
cost and action scale. So a family has versions, and its card says how ours differs from the literature.
"""

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from metarl_jax.base import TaskEnv
from metarl_jax.checks import integer, unknown

SPLITS = ("train", "test", "ood")
"""Names of the splits."""


class Ood(NamedTuple):
    """The split of tasks from another distribution, outside of the training range where that has an outside."""

    tasks: str
    """in words"""
    shift: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """``options → those that it changes``, computed from the user's own"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One entry of the registry: how to build a family, its versions, and what the documentation says about it."""

    name: str
    build: Callable[..., TaskEnv]
    """``(name=, horizon=, [backend=,] **options) → TaskEnv``"""
    versions: Mapping[str, Mapping[str, Any]]
    """version → its horizon and options; the first is what a bare name means, and all have the same options"""
    formula: str
    tasks: str
    observation: str
    start: str
    random_start: bool
    source: str
    differences: str
    ood: Ood
    finite: int | None = None
    """how many tasks there are; None: infinitely many"""
    shared_dynamics: bool = True
    backends: tuple[str, ...] = ()
    """of the physics, the default first; empty where there is none"""
    version_backends: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """version → its own, where they are not the family's"""

    def backends_of(self, version: str) -> tuple[str, ...]:
        """The backends of one version, the default first."""
        return self.version_backends.get(version, self.backends)

    @property
    def splits(self) -> dict[str, str]:
        """Split → its tasks, in words."""
        if self.finite is None:
            test = f"other draws of the same: {self.tasks}"
        else:
            test = f"the {self.finite} tasks of train, since there are no others"
        return {"train": self.tasks, "test": test, "ood": self.ood.tasks}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What a user must know of one version of a family before comparing curves; the source of the docs' tables."""

    name: str
    """full name, version included"""
    formula: str
    """reward of one step, and when an episode ends"""
    tasks: str
    """p(M)"""
    splits: Mapping[str, str]
    """split → its tasks, in words: what the option `split` of `make` takes"""
    observation: str
    """what the policy sees; never the task"""
    start: str
    """how an episode starts"""
    random_start: bool
    """whether starts differ between keys"""
    finite: int | None
    """how many tasks there are in training; None: infinitely many"""
    shared_dynamics: bool
    """whether the task changes rewards only"""
    horizon: int
    """T if no other is asked for"""
    options: Mapping[str, Any]
    """the options of `make` with this version's values"""
    versions: tuple[str, ...]
    """full names of the family's versions, the default first"""
    backends: tuple[str, ...]
    """physics backends, the default first; empty where there is no physics"""
    source: str
    """the paper that the definition is from"""
    differences: str
    """from the literature"""

    def __str__(self) -> str:
        """A line for every entry."""
        told = vars(self) | {"splits": "; ".join(f"{name}: {tasks}" for name, tasks in self.splits.items())}
        told |= {"options": ", ".join(f"{name}={value}" for name, value in self.options.items()) or "none"}
        told |= {"versions": ", ".join(self.versions), "backends": ", ".join(self.backends) or "none"}
        told["finite"] = "infinitely many" if self.finite is None else self.finite
        width = max(map(len, told))
        return "\n".join(f"{name.replace('_', ' '):{width}}  {value}" for name, value in told.items())


CARD_OF_USER = (
    *("formula", "tasks", "observation", "start", "source", "differences"),
    *("random_start", "shared_dynamics", "finite"),
)
"""What the card of a user's family can say; the first six in words."""


def of_user(
    name: str,
    build: Callable[..., TaskEnv],
    horizon: int,
    ood: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None,
    card: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Family:
    """A family from outside of the package, with one version, v1; what its card is not told it does not say.

    Raises:
        ValueError: `build` does not take its options, or what it returns is no environment of the horizon asked for.
    """
    try:
        inspect.signature(build).bind(name=name, horizon=horizon, **options)
    except TypeError as error:
        raise ValueError(
            f"build of {name!r} is called as build(name=, horizon=, **options), and here: {error}"
        ) from None

    def no_shift(options):
        raise ValueError(f"{name!r} has no split 'ood'; register it with ood=, or choose from train, test")

    def checked(**given):
        env = build(**given)
        if not isinstance(env, TaskEnv):
            raise ValueError(f"build of {name!r} returns {env!r}; it must return a metarl_jax.TaskEnv")
        if env.horizon != given["horizon"]:
            raise ValueError(
                f"build of {name!r} returns an environment with horizon {env.horizon}, and {given['horizon']} was "
                "asked for; let it pass its horizon on"
            )
        return dataclasses.replace(env, name=given["name"])

    words = dict.fromkeys(CARD_OF_USER[:6], "not said")
    shift = Ood("with other options" if ood else "none", ood or no_shift)
    versions = {"v1": {"horizon": horizon, **options}}
    return Family(name=name, build=checked, versions=versions, ood=shift, **{"random_start": True, **words, **card})


def full_names(family: Family) -> tuple[str, ...]:
    """Names with version, the default first."""
    return tuple(f"{family.name}@{version}" for version in family.versions)


def find(families: Mapping[str, Family], name: str) -> tuple[Family, str]:
    """The family and version that a name means.

    Raises:
        ValueError: there is no such family or version.
    """
    bare, at, version = name.partition("@") if isinstance(name, str) else ("", "", "")
    if bare not in families:
        raise unknown("environment", name, families)
    family = families[bare]
    if at and version not in family.versions:
        raise unknown(f"version of {bare!r}", name, full_names(family))
    return family, version if at else next(iter(family.versions))


def build(
    family: Family, version: str, split: str, backend: str | None, horizon: int | None, options: dict[str, Any]
) -> TaskEnv:
    """Builds one version of a family with a user's choices.

    Raises:
        ValueError: an option, the split or the backend does not exist, or a value is out of its range.
    """
    if split not in SPLITS:
        raise unknown(f"split of {family.name!r}", split, SPLITS)
    settings = dict(family.versions[version])
    for option in options:
        if option == "horizon" or option not in settings:
            raise unknown(f"option of {family.name!r}", option, [key for key in settings if key != "horizon"])
    settings |= options
    settings["horizon"] = integer("horizon", settings["horizon"] if horizon is None else horizon)
    backends = family.backends_of(version)
    if backends:
        if backend is not None and backend not in backends:
            raise unknown(f"backend of {f'{family.name}@{version}'!r}", backend, backends)
        settings["backend"] = backends[0] if backend is None else backend
    elif backend is not None:
        raise ValueError(f"backend is {backend!r}; {family.name!r} has no physics and takes none (leave it out)")
    name = f"{family.name}@{version}"
    env = family.build(name=name, **settings)
    if split == "train":
        return env
    if split == "ood":  # only now: building has checked the options that the shift is computed from
        shift = family.ood.shift(settings)
        if all(settings[option] == value for option, value in shift.items()):
            raise ValueError(
                f"split 'ood' of {family.name!r} is the training distribution with {dict(shift)}; leave that out"
            )
        env = family.build(name=name, **{**settings, **shift})
    draw = env.sample_task
    # A stream of its own: a key that was used in training draws other tasks here. No loop counts to such a tag.
    stream = zlib.crc32(split.encode())
    return dataclasses.replace(
        env, sample_task=lambda key: draw(jax.random.fold_in(key, stream)), name=f"{name} ({split})"
    )


def make_card(family: Family, version: str) -> Card:
    """The card of one version."""
    options = dict(family.versions[version])
    horizon = options.pop("horizon")
    shared = {f.name: getattr(family, f.name) for f in dataclasses.fields(Card) if hasattr(family, f.name)}
    own = {"name": f"{family.name}@{version}", "versions": full_names(family), "backends": family.backends_of(version)}
    return Card(
        **shared | own,
        horizon=horizon,
        options=options,
    )
