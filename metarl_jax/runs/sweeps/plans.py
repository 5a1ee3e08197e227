"""Plans of sweeps: combinations of options of experiments/train.py, one run folder each, checked before the start.

Importing this module does not import JAX, so that scripts print their help without delay.
"""

import dataclasses
import itertools
import json
import math
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl_jax.checks import integer, unknown
from metarl_jax.runs.config import TrainConfig, arguments
from metarl_jax.runs.config.options import FLAG_NAMES, AlgorithmConfig
from metarl_jax.runs.console.cli import UserError
from metarl_jax.runs.storage import files, json_text
from metarl_jax.runs.storage.folder import LOCK, check_path

MOST = 10_000
"""Maximum number of members of a sweep; each is a folder and a row of the table."""

FILE = "sweep.json"
"""The plan in the folder of a sweep."""

SCHEMA = 2
"""Version of the file format; increased by incompatible changes."""

_REAL = {float, tuple[float, ...]}
NUMBERS = {name for name, hint in typing.get_type_hints(AlgorithmConfig).items() if _REAL & {*typing.get_args(hint)}}
"""Options of algorithms that may be numbers, see `metarl_jax.algorithms.numbers`."""

Options = dict[str, str]
"""Option name → value, as on the command line."""

_RESERVED = {
    "traced": "it traces the numbers that it varies",
    "folder": "every member has its own, inside the folder of the sweep",
    "lock": "write --lock before the --",
    "resume": "a sweep that is started again resumes its members",
    "seeds": "write --seeds R before the --",
    "seed": "R seeds are trained in one program by --seeds R, from the --seed after the -- on",
}
"""Options that cannot be swept, and what to do instead."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The members of a sweep."""

    base: tuple[str, ...]
    """arguments of train.py shared by all members"""
    members: dict[str, Options]
    """folder name → options"""
    seeds: int = 1
    """seeds per member, trained together in one program"""

    def arguments(self, name: str, folder: Path) -> list[str]:
        """Arguments of train.py for a member of the sweep in `folder`."""
        hints = arguments.hints()
        words = [word for option, value in self.members[name].items() for word in _words(option, value, hints[option])]
        seeds = ["--seeds", str(self.seeds)] if self.seeds > 1 else []
        traced = [option for option in self.members[name] if option in NUMBERS]
        traced = ["--traced", *traced] if traced else []  # so that members that differ in these share their programs
        return [*self.base, *words, *seeds, *traced, *arguments.folder_option(folder / name)]


def _words(option: str, value: str, hint: Any) -> list[str]:
    flag = arguments.flag(option)
    if hint is bool and value in ("True", "False"):  # a flag without a value
        return [flag if value == "True" else flag.replace("--", "--no-", 1)]
    return [flag, *value.split()]


def _option(flag: str, spec: str) -> tuple[str, str]:
    """Splits NAME=TEXT; returns the option's name in the configuration, and the text."""
    name, equals, text = spec.partition("=")
    if not (equals and name and text):
        raise ValueError(f"--{flag} is {spec!r}; it must be NAME=VALUES, such as outer_lr=0.001,0.003")
    option = name.removeprefix("--").replace("-", "_")
    hints = arguments.hints()
    option = {flag: name for name, flag in FLAG_NAMES.items()}.get(option, option)
    option = option + "_" if option not in hints and option + "_" in hints else option  # lambda is a keyword
    if option in _RESERVED:
        raise ValueError(f"--{flag} names {name!r}, which a sweep sets itself: {_RESERVED[option]}")
    if option not in hints:
        raise unknown("option of train.py", name, [name for name in hints if name not in _RESERVED])
    return option, text


def _values(flag: str, spec: str, text: str) -> list[str]:
    values = [" ".join(value.split()) for value in text.split(",")]
    if "" in values:
        raise ValueError(f"--{flag} is {spec!r}; it has an empty value between its commas")
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"--{flag} is {spec!r}; it names {twice[0]} twice")
    return values


def grid(specs: Sequence[str]) -> list[Options]:
    """All combinations of values in the form NAME=VALUE,VALUE,...; a value of several words is a tuple.

    Raises:
        ValueError: an option is unknown, duplicate or reserved, or a value is empty or duplicate.
    """
    values: dict[str, list[str]] = {}
    for spec in specs:
        option, text = _option("grid", spec)
        if option in values:
            raise ValueError(f"--grid names {option!r} twice; write all of its values behind one =")
        values[option] = _values("grid", spec, text)
    _few("--grid", math.prod(map(len, values.values())))
    return [dict(zip(values, choice, strict=True)) for choice in itertools.product(*values.values())]


def _few(what: str, members: int) -> None:
    """Raises ValueError if a sweep has too many members."""
    if members > MOST:
        raise ValueError(f"{what} has {members:,} combinations; a sweep has at most {MOST:,} members, so vary less")


def draws(specs: Sequence[str], samples: int, seed: int) -> list[Options]:
    """Distinct random combinations; with the same seed, a larger sample starts with the smaller one.

    Args:
        specs: ranges as NAME=LOW:HIGH (uniform), NAME=log:LOW:HIGH (log-uniform), NAME=int:LOW:HIGH (integers, ends
            included) or NAME=VALUE,VALUE,... (one of these).
        samples: number of combinations.
        seed: seed of the draws.

    Raises:
        ValueError: an option or a range is not allowed, or there are fewer combinations than samples.
    """
    _few("--samples", integer("samples", samples))
    integer("sweep_seed", seed, 0)
    ranges: dict[str, Callable[[np.random.Generator], str]] = {}
    for spec in specs:
        option, text = _option("random", spec)
        if option in ranges:
            raise ValueError(f"--random names {option!r} twice; one range is enough")
        ranges[option] = _range(spec, option, text)
    random, distinct = np.random.default_rng(seed), []
    for _ in range(100 * samples):
        drawn = {option: draw(random) for option, draw in ranges.items()}
        if drawn not in distinct:
            distinct.append(drawn)
        if len(distinct) == samples:
            return distinct
    raise ValueError(f"samples is {samples}, but the ranges of --random hold about {len(distinct)} combinations only")


def _range(spec: str, option: str, text: str) -> Callable[[np.random.Generator], str]:
    if ":" not in text:
        values = _values("random", spec, text)
        return lambda random: values[random.integers(len(values))]
    *kind, low_text, high_text = text.split(":")
    allowed = f"--random is {spec!r}; it must be LOW:HIGH, log:LOW:HIGH or int:LOW:HIGH with LOW < HIGH"
    if kind not in ([], ["log"], ["int"]):
        raise ValueError(allowed)
    number = int if kind == ["int"] else float
    try:
        low, high = number(low_text), number(high_text)
    except ValueError as error:
        raise ValueError(f"{allowed}, numbers{' without a fraction' if number is int else ''}") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(allowed)
    if number is int and not -(2**63) <= low < high < 2**63:
        raise ValueError(f"{allowed}, within 64 bits")
    hint = arguments.hints()[option]
    if number is float and int in (kinds := getattr(hint, "__args__", (hint,))) and float not in kinds:
        raise ValueError(f"--random is {spec!r}, but {option} is a whole number; write {option}=int:{text}")
    if kind == ["int"]:
        return lambda random: str(random.integers(int(low), int(high), endpoint=True))
    if kind == ["log"] and low <= 0:
        raise ValueError(f"{allowed}, above 0 for a logarithm")
    if kind == ["log"]:
        return lambda random: _short(np.exp(random.uniform(np.log(low), np.log(high))), low, high)
    return lambda random: _short(random.uniform(low, high), low, high)


def _short(value: float, low: float, high: float) -> str:
    """The value with four digits, short enough for folder names and tables; the run uses this rounded value."""
    text = f"{value:.4g}"
    return text if low <= float(text) <= high else repr(float(value))


def plan(base: Sequence[str], grids: Sequence[Options], samples: Sequence[Options], seeds: int = 1) -> Plan:
    """Combines each sample with each grid point, under readable and distinct folder names.

    Args:
        base: arguments of train.py shared by all members.
        grids: result of `grid`.
        samples: result of `draws`; empty if no option is random.
        seeds: seeds per member.

    Raises:
        ValueError: an option is swept twice, or also fixed in `base`.
    """
    integer("seeds", seeds)
    _few("--grid with --random", len(grids or [{}]) * len(samples or [{}]))
    combinations = [point | sample for point in grids or [{}] for sample in samples or [{}]]
    swept = [*(grids[0] if grids else ()), *(samples[0] if samples else ())]
    if not swept:
        raise ValueError("there is nothing to sweep; name options by --grid NAME=VALUE,... or --random NAME=LOW:HIGH")
    if duplicates := [option for option in swept if swept.count(option) > 1]:
        raise ValueError(f"{duplicates[0]} is in --grid and in --random; it can be in one of them")
    fixed = [re.sub("^--(no-)?", "", word.partition("=")[0]).replace("-", "_") for word in base if word[:2] == "--"]
    names = {flag: name for name, flag in FLAG_NAMES.items()}
    for option in (names.get(option, option) for option in fixed):
        if option in _RESERVED and option != "seed":
            raise ValueError(f"--{option} stands after the --, but a sweep sets it itself: {_RESERVED[option]}")
        if option in swept:
            raise ValueError(f"{option} is swept and also fixed after the --; leave one of them out")
    if not {"task", "preset"} & {*fixed, *swept}:
        raise ValueError(
            "neither --task nor --preset stands after the --; without them train.py's settings depend on the machine, "
            "and the members of a sweep may run on several"
        )
    members: dict[str, Options] = {}
    for number, options in enumerate(combinations):
        name = ",".join(f"{option.rstrip('_')}={value}" for option, value in options.items())
        name = re.sub(r"[^\w.+=@,-]", "_", name.replace(" ", "-"), flags=re.ASCII)
        if len(name) > 120 or name in members:
            name = f"{number:0{len(str(len(combinations) - 1))}}-{name[:100]}"
        members[name] = options
    return Plan(tuple(base), members, seeds)


def check(plan: Plan, folder: Path) -> dict[str, TrainConfig]:
    """Parses each member's arguments as train.py does and builds the run, to detect errors before any member starts.

    Returns:
        Member name → configuration.

    Raises:
        UserError: a member's arguments are not allowed, or two members are the same run.
    """
    from metarl_jax.runs import config as configs

    configurations: dict[str, TrainConfig] = {}
    for name in plan.members:
        try:
            config = arguments.parse(plan.arguments(name, folder)).config
            configs.build(config)
        except (UserError, ValueError, OSError) as error:
            raise UserError(f"member {name}: {' '.join(str(error).split())}") from error
        for other, same in configurations.items():
            if dataclasses.replace(same, folder=config.folder) == config:
                raise UserError(f"members {other} and {name} are the same run; leave one of the values out")
        configurations[name] = config
    return configurations


def load(path: Path) -> Plan:
    """The plan that a `sweep.json` holds.

    Raises:
        ValueError: it is damaged, or another version wrote it.
    """
    try:
        stored = json_text.loads(files.read(path))
        schema, base, members = stored["schema"], tuple(stored["base"]), dict(stored["members"])
        seeds = integer("seeds", stored["seeds"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if schema != SCHEMA:
        raise ValueError(f"{path}: schema is {schema!r}; this version reads schema {SCHEMA}")
    return Plan(base, members, seeds)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def differences(stored: Plan, requested: Plan) -> list[str]:
    """Differences between two plans; empty if they are equal."""
    lines = []
    if stored.base != requested.base:
        old, new = (" ".join(plan.base) or "nothing" for plan in (stored, requested))
        lines.append(f"after the -- stood {old}, now {new}")
    if stored.seeds != requested.seeds:
        lines.append(f"seeds was {stored.seeds}, now {requested.seeds}")
    for text, one, other in (("no longer among", stored, requested), ("new among", requested, stored)):
        if names := [name for name, options in one.members.items() if other.members.get(name) != options]:
            lines.append(f"{text} the members: {_named(names)}")
    return lines


def open_folder(plan: Plan, folder: Path) -> bool:
    """Creates the folder of a sweep with its `sweep.json`, or reopens one with the same plan.

    Returns:
        Whether the folder existed.

    Raises:
        ValueError: the folder holds another sweep or other files, or its path cannot hold runs.
    """
    check_path(folder)
    if placeholder := re.search("%[jtaA]", str(folder.absolute())):
        raise ValueError(
            f"{folder} holds {placeholder[0]}, which submitit replaces by the number of a job; choose another --folder"
        )
    files.own(folder, (FILE, "results.csv", "results.png", LOCK), ("logs", "submitit", *plan.members))
    path = folder / FILE
    if files.there(path):
        if changed := differences(load(path), plan):
            raise ValueError(f"{folder} holds another sweep: {'; '.join(changed)}; choose another --folder")
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and holds no sweep.json, so it is no sweep; choose another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, **dataclasses.asdict(plan)}
    files.write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return False
