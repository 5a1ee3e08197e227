"""Loads a trained run into objects, for notebooks and other programs."""

from pathlib import Path
from typing import NamedTuple

from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.runs import config as configs
from metarl_jax.runs.config import Build, TrainConfig
from metarl_jax.runs.config.file import read_config
from metarl_jax.types import PyTree


class Loaded(NamedTuple):
    """A trained θ with its environment, algorithm and configuration."""

    env: TaskEnv
    """draws tasks of the requested split"""
    algorithm: MetaAlgorithm
    """as in training; ``algorithm.adapt(key, params, task, steps=3)`` adapts to a task"""
    params: PyTree
    """θ"""
    config: TrainConfig
    """configuration of the run"""
    iteration: int
    """number of meta-updates of θ"""


def load(folder: str | Path, checkpoint: str = "newest", split: str = "test", seed: int | None = None) -> Loaded:
    """Environment, algorithm, θ and configuration of a run.

    Args:
        folder: the run folder, which may have been moved.
        checkpoint: "newest", "best" (the highest return after adaptation in training) or an iteration.
        split: the tasks that the environment draws: "train", "test" or "ood".
        seed: one of the run's seeds; None: the first.

    Raises:
        ValueError: the folder is not a run folder, holds no such checkpoint, or its run had no such seed.

    Example:
        >>> folder = mrl.zoo.unpack("point-nav/maml-trpo", pathlib.Path(tempfile.mkdtemp()) / "run")  # or yours
        >>> run = mrl.load(folder)
        >>> run.env.horizon, run.config.algorithm
        (100, 'maml-trpo')
        >>> rows = mrl.evaluation.evaluate(run.algorithm, run.env, jax.random.key(0), run.params, num_tasks=4, steps=3)
        >>> rows["adapted"].mean.shape  # return after 0, 1, 2 and 3 inner steps
        (4,)
    """
    return loaded(Path(folder), checkpoint, split, seed)


def loaded(folder: Path, checkpoint: str, split: str, seed: int | None, build: Build | None = None) -> Loaded:
    """`load`, where `build` makes environment and algorithm of the configuration; None: by their names."""
    from metarl_jax.runs.checkpoint.states import params_of_seeds, restore  # imports orbax, which the zoo does not need

    config = read_config(folder)
    seed = config.seed if seed is None else seed
    if seed not in config.all_seeds:
        raise ValueError(f"seed is {seed!r}; the run in {folder} had {', '.join(map(str, config.all_seeds))}")
    built = (build or configs.build)(config, split=split)
    state, _ = restore(config, str(checkpoint), build)
    params = params_of_seeds(state, config.seeds)[config.all_seeds.index(seed)]
    return Loaded(built.env, built.algorithm, params, config, int(state.iteration.max()))
