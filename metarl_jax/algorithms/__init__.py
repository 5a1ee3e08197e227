"""The registry of named algorithms; each is a few lines in a file of its own."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from metarl_jax.algorithms.anil import anil
from metarl_jax.algorithms.cavia import cavia
from metarl_jax.algorithms.dice import dice
from metarl_jax.algorithms.e_maml import e_maml
from metarl_jax.algorithms.es_maml import es_maml
from metarl_jax.algorithms.fomaml import fomaml
from metarl_jax.algorithms.loaded_dice import loaded_dice
from metarl_jax.algorithms.lpg import WITHOUT as _WITHOUT_LPG
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
from metarl_jax.algorithms.self_tuning import WITHOUT as _WITHOUT_SELF_TUNING
from metarl_jax.algorithms.self_tuning import self_tuning
from metarl_jax.algorithms.tmaml import tmaml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.checks import choose, unknown
from metarl_jax.checks import function as check_function
from metarl_jax.compose import build_parts, compose
from metarl_jax.mixture import mixture
from metarl_jax.outer import descent
from metarl_jax.sequential import assemble_trials

ALGORITHMS = {
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
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
# Algorithms from outside: whose options they hand on, if any, and which of these they do not take.
_LIKE: dict[str, tuple[str | None, frozenset[str]]] = {}

# What a named algorithm fixes itself is not the user's to pass.
_FIXED = {"objective"}
# Where an algorithm hands on what it does not take itself, if not to `descent` and `build_parts`.
_FURTHER = {"rl2": (assemble_trials,), "rl2-hyper": (assemble_trials,), "maml-trpo": (build_parts,)}
# What `build_parts` takes and an algorithm refuses, with its reason.
_WITHOUT = {
    "es-maml": ("credit", "credit_estimator", "entropy_weight", "multi_step_iterations"),
    "lpg": _WITHOUT_LPG,
    "pretrain": ("burn_in", "credit", "credit_estimator", "multi_step_iterations"),
    "reptile": ("burn_in", "credit", "credit_estimator", "entropy_weight", "fast_parameters", "multi_step_iterations"),
    "self-tuning": _WITHOUT_SELF_TUNING,
}

# What other libraries call it.
_RATES = "outer_lr, the rate of the outer loop, or inner_lr, that of the inner one"
_OTHERS_NAMES = {"learning_rate": _RATES, "lr": _RATES, "gamma": "discount", "batch_size": "tasks, B, or episodes, N"}
_OTHERS_NAMES |= {"hidden_sizes": "policy={'hidden': (64, 64)}", "gae_lambda": "lambda_", "num_tasks": "tasks"}


def names() -> tuple[str, ...]:
    """The registered algorithms."""
    return tuple(sorted(ALGORITHMS))


def register(
    name: str, function: Callable[..., MetaAlgorithm], *, like: str = "maml", without: Sequence[str] = ()
) -> None:
    """Makes an algorithm of one's own known by name, to `make` and, by ``--import MODULE``, to the scripts.

    Its options are its parameters that have defaults; on the command line, those that no other algorithm has are
    ``--option NAME=VALUE``. If it takes ``**common``, they include those of the algorithm `like`, with the same
    defaults; where the function has another default, it must be a parameter of its own.

    Args:
        name: of the algorithm.
        function: ``(env, *, policy=None, **options) → MetaAlgorithm``.
        like: the algorithm to which `function` hands ``**common`` on.
        without: of these, what `function` sets itself.

    Raises:
        ValueError: the name is one of the package's own, or no name, the function cannot be called so, or there is no
            algorithm `like` or option in `without`.

    Example:
        >>> def gentle(env, *, share=0.5, **common):
        ...     return mrl.algorithms.maml(env, inner_lr=0.1 * share, **common)
        >>> mrl.algorithms.register("gentle", gentle, without=["inner_lr"])
    """
    if not isinstance(name, str) or not name or set(name) & set("/ "):
        raise ValueError(f"name is {name!r}; it must be a word without '/' and spaces")
    if name in _OWN:
        raise ValueError(f"{name!r} is an algorithm of the package; choose another name")
    if like == name:
        raise ValueError(f"like is {name!r} itself; it must be the algorithm to which the options are handed on")
    parameters = tuple(inspect.signature(check_function(f"algorithm {name!r}", function)).parameters.values())
    rest = parameters[1:]
    named = {parameter.name for parameter in rest if parameter.kind is not parameter.VAR_KEYWORD}
    hands_on = len(named) < len(rest)
    for parameter in rest:
        if parameter.name in named and (parameter.default is parameter.empty or parameter.kind not in _BY_NAME):
            raise ValueError(f"parameter {parameter.name!r} of {name!r} needs a default, so that it is an option")
    theirs = options(like) if hands_on else {}
    takes_env = parameters and parameters[0].kind in (inspect.Parameter.POSITIONAL_ONLY, _BY_NAME[1])
    if not takes_env or "policy" not in named | set(theirs):
        raise ValueError(
            f"{name!r} must be called as function(env, policy=None, ...), so that scripts can choose a policy"
        )
    for option in without:
        if option not in theirs:
            raise unknown(f"option in without of {name!r}", option, theirs)
    ALGORITHMS[name] = function
    _LIKE[name] = (like, frozenset(without)) if hands_on else (None, frozenset())


def options(name: str) -> dict[str, Any]:
    """The options of an algorithm and their defaults: its own first, then those that it shares with others.

    Raises:
        ValueError: the name is unknown.
    """
    function = choose("algorithm", name, ALGORITHMS)
    if name in _LIKE:
        like, without = _LIKE[name]
        own = {parameter.name: parameter.default for parameter in inspect.signature(function).parameters.values()}
        own = {option: default for option, default in own.items() if default is not inspect.Parameter.empty}
        shared = options(like) if like else {}
        return own | {
            option: default for option, default in shared.items() if option not in own and option not in without
        }
    accepted = {}
    for source in (function, *_FURTHER.get(name, (descent, build_parts))):
        for parameter in inspect.signature(source).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in _FIXED:
                accepted.setdefault(parameter.name, parameter.default)
    return {option: default for option, default in accepted.items() if option not in _WITHOUT.get(name, ())}


def make(name: str, env: TaskEnv, **given) -> MetaAlgorithm:
    """The algorithm `name` for an environment.

    Args:
        name: one of `names()`.
        env: p(M) and its MDPs.
        **given: any of `options(name)`.

    Raises:
        ValueError: the name or an option is unknown, a value is out of range, or the environment is none.
    """
    accepted = options(name)
    for option in given:
        if option not in accepted and option not in _WITHOUT.get(name, ()):
            if option in _OTHERS_NAMES:
                raise ValueError(f"unknown option of {name} {option!r}: here it is {_OTHERS_NAMES[option]}")
            raise unknown(f"option of {name}", option, accepted)
    for field in dataclasses.fields(TaskEnv):
        if not hasattr(env, field.name):
            raise ValueError(
                f"env is {env!r}, without {field.name!r}; it must be a metarl_jax.TaskEnv, such as "
                "metarl_jax.envs.make(name) returns"
            )
    return ALGORITHMS[name](env, **given)


__all__ = [
    "ALGORITHMS",
    "anil",
    "cavia",
    "compose",
    "dice",
    "e_maml",
    "es_maml",
    "fomaml",
    "loaded_dice",
    "lpg",
    "make",
    "maml",
    "maml_trpo",
    "meta_curvature",
    "meta_sgd",
    "mixture",
    "names",
    "options",
    "pretrain",
    "promp",
    "register",
    "reptile",
    "rl2",
    "rl2_hyper",
    "self_tuning",
    "tmaml",
]
