"""Loads a trained run into objects, for notebooks and other programs."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.runs import config as configs
from metarl_jax.runs.config import Build, Built, TrainConfig
from metarl_jax.runs.config.file import read_config
from metarl_jax.types import MetaState, PyTree


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
    state: MetaState | None = None
    """θ and the state of the outer optimizer, from which ``metarl_jax.training.train(algorithm, key, iterations,
    state=state)`` goes on; None: only θ is known, as in the zoo"""

    def __repr__(self) -> str:
        size = f"{sum(leaf.size for leaf in jax.tree.leaves(self.params)):,} numbers"
        return f"Loaded({self.config.algorithm!r}, env={self.env.name!r}, iteration={self.iteration}, params: {size})"


def load(
    folder: str | Path, checkpoint: str = "newest", split: str = "test", seed: int | None = None, **objects: Any
) -> Loaded:
    """Environment, algorithm, θ and configuration of a run.

    Args:
        folder: the run folder, which may have been moved.
        checkpoint: "newest", "best" (the highest return after adaptation in training) or an iteration.
        split: the tasks that the environment draws: "train", "test" or "ood".
        seed: one of the run's seeds; None: the first.
        **objects: what the folder does not hold, such as `env`, `policy` and `ood`: the objects that
            `metarl_jax.runs.train` was given, or of which `metarl_jax.save` was given the algorithm. The folder of a
            script's run holds all.

    Raises:
        ValueError: the folder is not a run folder, holds no such checkpoint, its run had no such seed, or it
            needs other objects.

    Example:
        >>> folder = mrl.zoo.unpack("point-nav/maml-trpo", pathlib.Path(tempfile.mkdtemp()) / "run")  # or yours
        >>> run = mrl.load(folder)
        >>> run.env.horizon, run.config.algorithm
        (100, 'maml-trpo')
        >>> rows = mrl.evaluation.evaluate(run.algorithm, run.env, jax.random.key(0), run.params, num_tasks=4, steps=3)
        >>> rows["adapted"].mean.shape  # return after 0, 1, 2 and 3 inner steps
        (4,)
    """
    own = read_config(Path(folder)).own
    ood = objects.pop("ood", None)
    if set(own) != objects.keys() or (ood is not None and "env" not in own):
        needs = f"needs the objects {', '.join(own)}" if own else "needs no objects, since its folder holds all"
        given = ", ".join(sorted([*objects, *["ood"] * (ood is not None)])) or "none"
        raise ValueError(f"the run in {folder} {needs}; given are {given}")
    env = objects.pop("env", None)
    build = build_with(env, ood, objects) if "env" in own else functools.partial(configs.build, objects=objects)
    return loaded(Path(folder), checkpoint, split, seed, build)


def build_with(env: TaskEnv, ood: TaskEnv | None, objects: Mapping[str, Any]) -> Build:
    """As `metarl_jax.runs.config.build`, with these environments and options.

    Raises:
        ValueError: one of the environments is none, or they differ in more than their tasks.
    """
    from metarl_jax.envs.registry import in_split

    for name, value in {"env": env, "ood": ood}.items():
        if not isinstance(value, TaskEnv) and (name, value) != ("ood", None):
            raise ValueError(f"{name} is {value!r}; it must be a metarl_jax.TaskEnv")
    for field in ("observation_size", "observation_shape", "action_size", "discrete", "horizon"):
        if ood is not None and getattr(ood, field) != getattr(env, field):
            raise ValueError(f"{field} of ood is {getattr(ood, field)}, and {getattr(env, field)} that of env")
    splits = {"train": env, "test": in_split(env, "test")} | ({} if ood is None else {"ood": in_split(ood, "ood")})

    def build(config: TrainConfig, split: str = "train", **overrides: Any) -> Built:
        if split not in splits:
            raise ValueError(f"split is {split!r}, and there is no environment for it; give ood= one")
        return configs.with_env(config, splits[split], objects, **overrides)

    return build


def loaded(folder: Path, checkpoint: str, split: str, seed: int | None, build: Build | None = None) -> Loaded:
    """`load`, where `build` makes environment and algorithm of the configuration; None: by their names."""
    from metarl_jax.runs.checkpoint.states import params_of_seeds, restore  # imports orbax, which the zoo does not need

    config = read_config(folder)
    seed = config.seed if seed is None else seed
    if seed not in config.all_seeds:
        raise ValueError(f"seed is {seed!r}; the run in {folder} had {', '.join(map(str, config.all_seeds))}")
    built = (build or configs.build)(config, split=split)
    state, _ = restore(config, str(checkpoint), build)
    index = config.all_seeds.index(seed)
    params, iteration = params_of_seeds(state, config.seeds)[index], int(state.iteration.max())
    state = state if config.seeds == 1 else jax.tree.map(lambda leaf: leaf[index], state)
    return Loaded(built.env, built.algorithm, params, config, iteration, state)
