"""The registry of named algorithms; each is a few lines in a file of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from metarl_jax.algorithms.anil import anil
from metarl_jax.algorithms.cavia import cavia
from metarl_jax.algorithms.dice import dice
from metarl_jax.algorithms.e_maml import e_maml
from metarl_jax.algorithms.es_maml import es_maml
from metarl_jax.algorithms.fomaml import fomaml
from metarl_jax.algorithms.loaded_dice import loaded_dice
from metarl_jax.algorithms.lpg import lpg
from metarl_jax.algorithms.maml import maml
from metarl_jax.algorithms.maml_trpo import maml_trpo
from metarl_jax.algorithms.meta_curvature import meta_curvature
from metarl_jax.algorithms.meta_sgd import meta_sgd
from metarl_jax.algorithms.pretrain import pretrain
from metarl_jax.algorithms.promp import promp
from metarl_jax.algorithms.reptile import reptile
from metarl_jax.algorithms.rl2 import rl2
from metarl_jax.algorithms.rl2_hyper import rl2_hyper
from metarl_jax.algorithms.self_tuning import self_tuning
from metarl_jax.algorithms.tmaml import tmaml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.checks import choose
from metarl_jax.checks import function as check_function
from metarl_jax.compose import build_parts, compose
from metarl_jax.keywords import ByKeyword, by_keyword, defaults, in_order, of_function
from metarl_jax.mixture import mixture

ALGORITHMS: dict[str, ByKeyword] = {
    "anil": anil,
    "cavia": cavia,
    "dice": dice,
    "e-maml": e_maml,
    "es-maml": es_maml,
    "fomaml": fomaml,
    "loaded-dice": loaded_dice,
    "lpg": lpg,
    "maml": maml,
    "maml-trpo": maml_trpo,
    "meta-curvature": meta_curvature,
    "meta-sgd": meta_sgd,
    "pretrain": pretrain,
    "promp": promp,
    "reptile": reptile,
    "rl2": rl2,
    "rl2-hyper": rl2_hyper,
    "self-tuning": self_tuning,
    "tmaml": tmaml,
}
"""Algorithms by name: ``(env, **options) → MetaAlgorithm``."""

_OWN = frozenset(ALGORITHMS)


def names() -> tuple[str, ...]:
    """The registered algorithms."""
    return tuple(sorted(ALGORITHMS))


def registered() -> tuple[str, ...]:
    """The algorithms that users have registered, see `register`."""
    return tuple(name for name in names() if name not in _OWN)


def register(
    name: str, function: Callable[..., MetaAlgorithm], *, like: str = "maml", without: Sequence[str] = ()
) -> None:
    """Registers your own algorithm by name, for `make`, `options` and, with ``--import MODULE``, the scripts.

    The function is one that `by_keyword` made from an option struct, or a plain one: its options are then its
    parameters that have defaults and, if it takes ``**common``, those of the algorithm `like`, with the same defaults.
    On the command line each option whose type is a number, a word, a boolean, or a sequence of them is a flag.

    Args:
        name: name of the algorithm.
        function: ``(env, *, policy=None, **options) → MetaAlgorithm``.
        like: the algorithm to which a plain function hands ``**common`` on.
        without: of these, what `function` sets itself.

    Raises:
        ValueError: the name is invalid or belongs to the package, the function has another signature, or `like` or
            `without` names nothing that exists.

    Example:
        >>> def gentle(env, *, share=0.5, **common):
        ...     return mrl.algorithms.maml(env, inner_lr=0.1 * share, **common)
        >>> mrl.algorithms.register("gentle", gentle, without=["inner_lr"])
    """
    if not isinstance(name, str) or not name or set(name) & set("/ "):
        raise ValueError(f"name is {name!r}; it must be a word without '/' and spaces")
    if name in _OWN:
        raise ValueError(f"{name!r} is an algorithm of the package; choose another name")
    if dataclasses.is_dataclass(struct := getattr(function, "options", None)):
        if without:
            raise ValueError(f"without is {without!r}, and {name!r} has an option struct; leave it out of the struct")
        if "policy" not in in_order(cast(type, struct)):
            raise ValueError(f"the options of {name!r} must have a field policy, so that scripts can choose one")
        ALGORITHMS[name] = by_keyword(cast(type, struct), name)(cast(ByKeyword, function).build)
        return
    if like == name:
        raise ValueError(f"like is {name!r} itself; it must be the algorithm to which the options are handed on")
    check_function(f"algorithm {name!r}", function)
    ALGORITHMS[name] = of_function(name, function, choose("algorithm", like, ALGORITHMS).options, without)


def kind(name: str) -> str:
    """The kind of f_θ of an algorithm: "gradient", "memory" or "life", see `metarl_jax.options.TrialOptions`.

    Raises:
        ValueError: the name is unknown.
    """
    return getattr(choose("algorithm", name, ALGORITHMS).options, "kind", "gradient")


def options(name: str) -> dict[str, Any]:
    """Options of an algorithm and their defaults: its own first, then those that it shares with others.

    Raises:
        ValueError: the name is unknown.
    """
    return defaults(choose("algorithm", name, ALGORITHMS).options)


def numbers(name: str) -> tuple[str, ...]:
    """The options of an algorithm of the package that are numbers and no sizes, so that JAX may trace them.

    Of one that users have registered, none: what it does with its numbers is not known.

    Raises:
        ValueError: the name is unknown.
    """
    struct = choose("algorithm", name, ALGORITHMS).options
    hints = get_type_hints(struct) if name in _OWN else {}
    return tuple(option for option in hints if option in in_order(struct) and _is_number(hints[option]))


def _is_number(hint: Any) -> bool:
    """Whether a type is, or allows, a real number."""
    union = get_origin(hint) in (Union, UnionType)
    return hint is float or (union and any(map(_is_number, get_args(hint))))


def make(name: str, env: TaskEnv, **given: Any) -> MetaAlgorithm:
    """The algorithm `name` for an environment.

    Args:
        name: one of `names()`.
        env: p(M) and its MDPs.
        **given: any of `options(name)`.

    Raises:
        ValueError: the name or an option is unknown, a value is out of range, or the environment is none.
    """
    return choose("algorithm", name, ALGORITHMS)(env, **given)


__all__ = [
    "ALGORITHMS",
    "anil",
    "build_parts",
    "by_keyword",
    "cavia",
    "compose",
    "dice",
    "e_maml",
    "es_maml",
    "fomaml",
    "kind",
    "loaded_dice",
    "lpg",
    "make",
    "maml",
    "maml_trpo",
    "meta_curvature",
    "meta_sgd",
    "mixture",
    "names",
    "numbers",
    "options",
    "pretrain",
    "promp",
    "register",
    "registered",
    "reptile",
    "rl2",
    "rl2_hyper",
    "self_tuning",
    "tmaml",
]
