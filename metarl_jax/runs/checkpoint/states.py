"""The initial state of a run, and restoring a state from its checkpoints."""

import jax
import jax.numpy as jnp

from metarl_jax import chunks
from metarl_jax.guard import guarded
from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
from metarl_jax.runs.config import Build, Built, TrainConfig
from metarl_jax.sharing import program
from metarl_jax.training import streams
from metarl_jax.types import MetaState, PyTree


def root_keys(config: TrainConfig) -> jax.Array:
    """The root key of a run; with several seeds, keys [R]."""
    keys = [jax.random.key(seed) for seed in config.all_seeds]
    return keys[0] if len(keys) == 1 else jnp.stack(keys)


_initial_state = jax.jit(chunks.initial_state)


def initial_state(built: Built, config: TrainConfig) -> MetaState:
    """The state before the first iteration; leaves [R, ...] with several seeds."""
    return guarded(_initial_state(program(built.algorithm.init), streams(root_keys(config)).init))


def restore(config: TrainConfig, checkpoint: str = "newest", build: Build | None = None) -> tuple[MetaState, list[str]]:
    """Restores an intact checkpoint of a run; also returns messages for the user.

    Args:
        config: configuration of the run.
        checkpoint: "newest", "best" (the highest return after adaptation) or an iteration.
        build: makes environment and algorithm of the configuration; None: by their names.

    Raises:
        ValueError: there is no such checkpoint, or the folder's checkpoints belong to another run.
    """
    checkpoints = Checkpoints(config.run_folder, config, initial_state((build or configs.build)(config), config))
    try:
        return checkpoints.restore(_iteration(checkpoints, checkpoint)), checkpoints.notes
    finally:
        checkpoints.close()


def _iteration(checkpoints: Checkpoints, name: str) -> int | None:
    if name == "newest":
        return None
    if name == "best":
        best = checkpoints.best()
        if best is None:
            raise ValueError(
                f"checkpoint is 'best', but none in {checkpoints.directory} has a score yet; take 'newest'"
            )
        return best
    if not (name.isascii() and name.isdecimal() and len(name) < 19):
        raise ValueError(
            f"checkpoint is {name!r}; it must be 'newest', 'best' or one of {checkpoints.iterations() or 'none'}"
        )
    return int(name)


def params_of_seeds(state: MetaState, seeds: int) -> list[PyTree]:
    """θ of each seed."""
    if seeds == 1:
        return [state.params]
    leaves, tree = jax.tree.flatten(state.params)
    return [jax.tree.unflatten(tree, [leaf[seed] for leaf in leaves]) for seed in range(seeds)]
