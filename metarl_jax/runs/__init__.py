"""All code that uses the disk or a terminal: configuration, checkpoints, logs, plots, and complete runs.

The scripts call functions such as `run.train_run` and `evaluate.evaluate_run`, and a user's own program `runs.train`.
Algorithms never import this package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl_jax.runs.own import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from metarl_jax.runs.own import train  # imports JAX, for which a help text does not wait

    return train
