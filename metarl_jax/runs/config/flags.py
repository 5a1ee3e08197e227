"""The options of the registered algorithms as flags of a command line, derived from their structs."""

import collections.abc
import dataclasses
import re
import typing
from collections.abc import Iterable
from typing import Any

from metarl_jax import algorithms
from metarl_jax.keywords import descriptions, in_order
from metarl_jax.runs.config.options import PolicyConfig

FEW = 6
"""Algorithms that a flag's text lists by name."""

_SET_ELSEWHERE = {"horizon", *(field.name for field in dataclasses.fields(PolicyConfig))}
_KINDS = (bool, int, float, str, tuple[float, ...], tuple[str, ...])


@dataclasses.dataclass(frozen=True)
class Flag:
    """An option as the command line takes it."""

    kind: Any
    """type of its value, one of bool, int, float, str, tuple[float, ...], tuple[str, ...]"""
    text: str
    """what it means, which algorithms take it, and their defaults"""


def of_algorithms(names: Iterable[str]) -> dict[str, Flag]:
    """The options of these algorithms by name, those that most of them take first.

    Objects, such as an optimizer, have no flag. Nor have the horizon and the policy, which are set by other flags.
    """
    flags = {}
    for option, owners in sorted(_owners(names).items(), key=lambda item: -len(item[1])):
        if option not in _SET_ELSEWHERE and (kind := _kind(option, owners)) is not None:
            flags[option] = Flag(kind, _text(option, owners))
    return flags


def _owners(names: Iterable[str]) -> dict[str, dict[str, type]]:
    """Option → the algorithms that take it, each with its struct."""
    owners: dict[str, dict[str, type]] = {}
    for name in names:
        struct = algorithms.ALGORITHMS[name].options
        for option in in_order(struct):
            owners.setdefault(option, {})[name] = struct
    return owners


def _kind(option: str, owners: dict[str, type]) -> Any:
    """The type of a flag: the most general one that all owners of the option have; None where there is none."""
    kinds = set()
    for struct in owners.values():
        hint = typing.get_type_hints(struct)[option]
        members = {hint} if not typing.get_args(hint) or typing.get_origin(hint) is tuple else _members(hint)
        if collections.abc.Sequence[float] in members:
            kinds.add(tuple[float, ...])
        elif collections.abc.Sequence[str] in members:
            kinds.add(tuple[str, ...])
        else:
            kinds.add(next((kind for kind in (str, float, int, bool) if kind in members), None))
    return max(kinds, key=_KINDS.index) if None not in kinds and kinds <= {*_KINDS} else None


def _members(hint: Any) -> set[Any]:
    if typing.get_origin(hint) is collections.abc.Sequence:
        return {hint}
    return set(typing.get_args(hint))


def _text(option: str, owners: dict[str, type]) -> str:
    texts = [descriptions(struct).get(option, "") for struct in owners.values()]
    text = max(texts, key=texts.count)
    defaults: dict[str, list[str]] = {}
    for name, struct in owners.items():
        defaults.setdefault(_word(in_order(struct)[option].default), []).append(name)
    (usual, _), *others = sorted(defaults.items(), key=lambda item: -len(item[1]))
    if usual != "None" and not others:  # None stands for this default here, and for something else in Python
        text = re.sub(r"[;.,]? None (means|leaves|keeps)[^;.]*", "", text)
    remarks = [", ".join(owners)] if len(owners) <= FEW else []
    remarks += [] if usual == "None" else [f"None: {usual}"]
    remarks += [f"{', '.join(names)}: {value}" for value, names in others]
    return (text.replace("`", "") + (f" ({'; '.join(remarks)})" if remarks else "")).strip()


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
