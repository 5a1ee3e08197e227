"""Gradient-based meta-reinforcement learning in JAX: φ = f_θ(D) for every task, and the gradient of J(θ) through it.

The names below are loaded when first used, so that a script's help text need not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metarl_jax import (
        algorithms,
        curriculum,
        devices,
        envs,
        evaluation,
        inner,
        normalization,
        outer,
        plot,
        policies,
        rollout,
        runs,
        training,
        zoo,
    )
    from metarl_jax.base import Adapter, MetaAlgorithm, Policy, RecurrentPolicy, TaskEnv, Trial
    from metarl_jax.learner import Learner
    from metarl_jax.runs.load import load
    from metarl_jax.runs.save import save
    from metarl_jax.sharing import one_program
    from metarl_jax.types import Adaptation, MetaState, Trajectory

__version__ = "0.2.0"

__all__ = [
    "Adaptation",
    "Adapter",
    "Learner",
    "MetaAlgorithm",
    "MetaState",
    "Policy",
    "RecurrentPolicy",
    "TaskEnv",
    "Trajectory",
    "Trial",
    "algorithms",
    "curriculum",
    "devices",
    "envs",
    "evaluation",
    "inner",
    "load",
    "normalization",
    "one_program",
    "outer",
    "plot",
    "policies",
    "rollout",
    "runs",
    "save",
    "training",
    "zoo",
]

_HOMES = {
    "learner": ("Learner",),
    "runs.load": ("load",),
    "runs.save": ("save",),
    "sharing": ("one_program",),
    "base": ("Adapter", "MetaAlgorithm", "Policy", "RecurrentPolicy", "TaskEnv", "Trial"),
    "types": ("Adaptation", "MetaState", "Trajectory"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME_OF.get(name, name)}")
    value = getattr(module, name) if name in _HOME_OF else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
