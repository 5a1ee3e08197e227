"""A trained run as objects: what a notebook, or a program of one's own, takes from a run folder."""

from pathlib import Path
from typing import NamedTuple

from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.runs import config as configs
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.config_file import read_config
from metarl_jax.types import PyTree


class Loaded(NamedTuple):
    """A trained θ and what it belongs to."""

    env: TaskEnv
    """draws the tasks of the split that was asked for"""
    algorithm: MetaAlgorithm
    """as in training; ``algorithm.adapt(key, params, task, steps=3)`` adapts"""
    params: PyTree
    """θ"""
    config: TrainConfig
    """of the run"""
    iteration: int
    """meta-updates that θ has behind it"""


def load(folder: str | Path, checkpoint: str = "newest", split: str = "test", seed: int | None = None) -> Loaded:
    """Environment, algorithm, θ and configuration of a run.

    Args:
        folder: of the run, wherever it is now.
        checkpoint: "newest", "best" (the highest return after adaptation in training) or an iteration.
        split: whose tasks the environment draws: "train", "test" or "ood".
        seed: which of a run's several seeds; None is the first.

    Raises:
        ValueError: the folder is no run folder, holds no such checkpoint, or its run had no such seed.

    Example:
        >>> folder = mrl.zoo.unpack("point-nav/maml-trpo", pathlib.Path(tempfile.mkdtemp()) / "run")  # or yours
        >>> run = mrl.load(folder)
        >>> run.env.horizon, run.config.algorithm
        (100, 'maml-trpo')
        >>> rows = mrl.evaluation.evaluate(run.algorithm, run.env, jax.random.key(0), run.params, num_tasks=4, steps=3)
        >>> rows["adapted"].mean.shape  # return after 0, 1, 2 and 3 inner steps
        (4,)
    """
    from metarl_jax.runs.states import params_of_seeds, restore  # orbax, which the zoo does without

    config = read_config(Path(folder))
    seed = config.seed if seed is None else seed
    if seed not in config.all_seeds:
        raise ValueError(f"seed is {seed!r}; the run in {folder} had {', '.join(map(str, config.all_seeds))}")
    built = configs.build(config, split=split)
    state, _ = restore(config, str(checkpoint))
    params = params_of_seeds(state, config.seeds)[config.all_seeds.index(seed)]
    return Loaded(built.env, built.algorithm, params, config, int(state.iteration.max()))
