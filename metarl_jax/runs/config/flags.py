"""The options of the registered algorithms as flags of a command line, derived from their structs."""

import collections.abc
import dataclasses
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from metarl_jax import algorithms
from metarl_jax.keywords import default_of, descriptions, in_order
from metarl_jax.runs.config.options import PolicyConfig

FEW = 6
"""Algorithms that a flag's text lists by name."""

_SET_ELSEWHERE = {"horizon", *(field.name for field in dataclasses.fields(PolicyConfig))}
_KINDS = (bool, int, float, str, tuple[int, ...], tuple[float, ...], tuple[str, ...])


@dataclasses.dataclass(frozen=True)
class Flag:
    """An option as the command line takes it."""

    kind: Any
    """type of its value: bool, int, float, str, or a tuple of numbers or words"""
    text: str
    """what it means, which algorithms take it, and their defaults"""


def of_algorithms(names: Iterable[str]) -> dict[str, Flag]:
    """The options of these algorithms by name, those that most of them take first.

    Objects, such as an optimizer, have no flag. Nor have the horizon and the policy, which are set by other flags.
    """
    flags = {}
    for option, owners in sorted(_owners(names).items(), key=lambda item: -len(item[1])):
        if option not in _SET_ELSEWHERE and (kind := _kind(option, owners)) is not None:
            flags[option] = Flag(kind, _text(option, owners, kind))
    return flags


def takes_none(algorithm: str, option: str) -> bool:
    """Whether None is a value of an algorithm's option, and another than its default.

    Raises:
        ValueError: the algorithm is unknown.
    """
    if algorithms.options(algorithm).get(option) is None:
        return False
    try:
        hint = typing.get_type_hints(algorithms.ALGORITHMS[algorithm].options)[option]
    except NameError:  # an annotation that is only known to a type checker
        return False
    return type(None) in typing.get_args(hint)


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
        try:
            members = _members(typing.get_type_hints(struct)[option])
        except NameError:  # an annotation that is only known to a type checker
            return None
        kinds.add(next((kind for kind in reversed(_KINDS) if kind in members), None))
    return max(kinds, key=_KINDS.index) if None not in kinds else None


def _members(hint: Any) -> set[Any]:
    """The kinds of values that a type has; a sequence of any type counts as a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, list, collections.abc.Sequence):
        return {tuple[arguments[0], ...]}
    if origin is typing.Literal:
        return {type(value) for value in arguments}
    return set().union(*map(_members, arguments)) if origin in (typing.Union, types.UnionType) else {hint}


def _text(option: str, owners: dict[str, type], kind: Any) -> str:
    texts = [descriptions(struct).get(option, "") for struct in owners.values()]
    text = max(texts, key=texts.count)
    defaults: dict[str, list[str]] = {}
    for name, struct in owners.items():
        value = default_of(in_order(struct)[option])
        word = str(float(value)) if kind is float and isinstance(value, bool) else _word(value)
        defaults.setdefault(word, []).append(name)
    (usual, _), *others = sorted(defaults.items(), key=lambda item: -len(item[1]))
    if usual != "None" and not others:  # None stands for this default here, and for something else in Python
        text = re.sub(r"[;.,]? None (means|leaves|keeps)[^;.]*", "", text)
    remarks = [", ".join(owners)] if len(owners) <= FEW else []
    remarks += [] if usual == "None" else [f"None: {usual}"]
    remarks += [f"{', '.join(names)}: {value}" for value, names in others]
    return (text.replace("`", "") + (f" ({'; '.join(remarks)})" if remarks else "")).strip()


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
