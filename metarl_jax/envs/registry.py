"""Builds environments from names such as ``cheetah-vel@finn2017``.

Papers use the same family name with different task ranges, horizons, observations, control costs, contact costs and
action scales. Hence a family has versions, and its card lists the differences from the literature.
"""

import dataclasses
import inspect
import textwrap
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from metarl_jax.base import TaskEnv
from metarl_jax.checks import integer, one_of, unknown

SPLITS = ("train", "test", "ood")
"""Names of the task splits."""


class Ood(NamedTuple):
    """The out-of-distribution split: another task distribution, outside the training range where possible."""

    tasks: str
    """description of its tasks"""
    shift: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """``options → the options that this split changes``, computed from the options in use"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One entry of the registry: how to build a family, its versions, and the entries of its card."""

    name: str
    build: Callable[..., TaskEnv]
    """``(name=, horizon=, [backend=,] **options) → TaskEnv``"""
    versions: Mapping[str, Mapping[str, Any]]
    """version → its horizon and options; the first is the default, and all versions have the same options"""
    formula: str
    tasks: str
    observation: str
    start: str
    random_start: bool
    source: str
    differences: str
    ood: Ood | None
    """None: there is no such split"""
    finite: int | None = None
    """number of tasks; None: infinitely many"""
    shared_dynamics: bool | None = True
    backends: tuple[str, ...] = ()
    """physics backends, the default first; empty if the family has no physics"""
    version_backends: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """version → its backends, where they differ from the family's"""

    def backends_of(self, version: str) -> tuple[str, ...]:
        """The backends of one version, the default first."""
        return self.version_backends.get(version, self.backends)

    @property
    def splits(self) -> dict[str, str]:
        """Split → description of its tasks."""
        if self.finite is None:
            test = f"other draws of the same: {self.tasks}"
        else:
            test = f"the {self.finite} tasks of train, since there are no others"
        return {"train": self.tasks, "test": test} | ({"ood": self.ood.tasks} if self.ood else {})


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Card:
    """Documentation of one version of a family; the tables in the docs are generated from it."""

    name: str
    """full name, version included"""
    formula: str
    """reward of one step, and when an episode ends"""
    tasks: str
    """p(M)"""
    splits: Mapping[str, str]
    """split → description of its tasks; the keys are the values of `make`'s option `split`"""
    observation: str
    """the policy's input; never includes the task"""
    start: str
    """distribution of initial states"""
    random_start: bool
    """whether initial states depend on the key"""
    finite: int | None
    """number of training tasks; None: infinitely many"""
    shared_dynamics: bool | None
    """whether the task changes rewards only; None: not said"""
    horizon: int
    """default episode length T"""
    options: Mapping[str, Any]
    """options of `make` and their values in this version"""
    versions: tuple[str, ...]
    """full names of the family's versions, the default first"""
    backends: tuple[str, ...]
    """physics backends, the default first; empty if there is no physics"""
    source: str
    """the paper with the definition"""
    differences: str
    """differences from the literature"""

    def entries(self, chosen: Mapping[str, Any] | None = None) -> dict[str, str]:
        """What show_tasks.py prints, by label, with the chosen options; ranges in texts refer to the defaults."""
        chosen = chosen or {}
        options = (
            f"{name}={value}{' (chosen)' * (name in chosen)}" for name, value in {**self.options, **chosen}.items()
        )
        entries = {
            "reward; end": self.formula,
            "tasks": self.tasks,
            "horizon": f"{self.horizon} step{'s'[: self.horizon > 1]}",
            "observation": self.observation,
            "start": self.start,
            "options": ", ".join(options) or "none",
        }
        entries |= {f"split {name}": text for name, text in self.splits.items()}
        if self.backends:
            entries["physics"] = f"{', '.join(self.backends)} (the first is the default)"
        return entries | {"versions": ", ".join(self.versions), "source": self.source, "differences": self.differences}

    def __str__(self) -> str:
        """The name, and a line or more for each of `entries`."""
        entries = self.entries()
        width = max(map(len, entries))
        lines = (
            textwrap.fill(
                text,
                120,
                initial_indent=f"{label:{width}}  ",
                subsequent_indent=" " * (width + 2),
                break_on_hyphens=False,
            )
            for label, text in entries.items()
        )
        return "\n".join([self.name, *lines])

    __repr__ = __str__


CARD_OF_USER = (
    *("formula", "tasks", "observation", "start", "source", "differences"),
    *("random_start", "shared_dynamics", "finite"),
)
"""Card entries that `register` accepts; the first six are text."""


def of_user(
    name: str,
    build: Callable[..., TaskEnv],
    horizon: int,
    ood: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None,
    card: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Family:
    """A user-defined family with one version, v1; missing card entries read "not said".

    Raises:
        ValueError: `build` does not accept its options, or does not return an environment with the requested horizon.
    """
    try:
        inspect.signature(build).bind(name=name, horizon=horizon, **options)
    except TypeError as error:
        raise ValueError(
            f"build of {name!r} is called as build(name=, horizon=, **options), and here: {error}"
        ) from None

    def checked(**settings):
        env = build(**settings)
        if not isinstance(env, TaskEnv):
            raise ValueError(f"build of {name!r} returns {env!r}; it must return a metarl_jax.TaskEnv")
        if env.horizon != settings["horizon"]:
            raise ValueError(
                f"build of {name!r} returns an environment with horizon {env.horizon}, and {settings['horizon']} was "
                "asked for; let it pass its horizon on"
            )
        return dataclasses.replace(env, name=settings["name"])

    words = dict.fromkeys(CARD_OF_USER[:6], "not said")
    shift = Ood("with other options", ood) if ood else None
    versions = {"v1": {"horizon": horizon, **options}}
    return Family(
        name=name,
        build=checked,
        versions=versions,
        ood=shift,
        **{"random_start": True, "shared_dynamics": None, **words, **card},
    )


def full_names(family: Family) -> tuple[str, ...]:
    """Names with versions, the default first."""
    return tuple(f"{family.name}@{version}" for version in family.versions)


def find(families: Mapping[str, Family], name: str) -> tuple[Family, str]:
    """The family and version of a name.

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
    """Builds one version of a family with the user's settings.

    Raises:
        ValueError: an option, the split or the backend does not exist, or a value is out of its range.
    """
    one_of(f"split of {family.name!r}", split, SPLITS)
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
    if split == "ood":  # not earlier: building validates the options from which the shift is computed
        if family.ood is None:
            raise ValueError(f"{family.name!r} has no split 'ood'; register it with ood=, or choose from train, test")
        shift = family.ood.shift(settings)
        for option in shift:
            if option not in settings:
                raise unknown(f"option of {family.name!r}, in its split 'ood'", option, settings)
        if all(settings[option] == value for option, value in shift.items()):
            raise ValueError(
                f"split 'ood' of {family.name!r} is the training distribution with {dict(shift)}; leave that out"
            )
        env = family.build(name=name, **{**settings, **shift})
    return in_split(env, split)


def in_split(env: TaskEnv, split: str) -> TaskEnv:
    """The environment with the task draws of another split than training's.

    The same key draws other tasks than in training, and than in any other split.
    """
    draw, draw_all = env.sample_task, env.sample_tasks
    # A separate stream, so that the same key draws other tasks than in training. The CRC is far larger than any fold_in
    # index used elsewhere.
    stream = zlib.crc32(split.encode())
    return dataclasses.replace(
        env,
        sample_task=lambda key: draw(jax.random.fold_in(key, stream)),
        sample_tasks=draw_all and (lambda key, count: draw_all(jax.random.fold_in(key, stream), count)),
        name=f"{env.name} ({split})",
    )


def make_card(family: Family, version: str) -> Card:
    """The card of one version."""
    options = dict(family.versions[version])
    horizon = options.pop("horizon")
    shared = {f.name: getattr(family, f.name) for f in dataclasses.fields(Card) if hasattr(family, f.name)}
    of_version = {
        "name": f"{family.name}@{version}",
        "versions": full_names(family),
        "backends": family.backends_of(version),
    }
    return Card(
        **shared | of_version,
        horizon=horizon,
        options=options,
    )
