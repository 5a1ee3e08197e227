"""Writes what a program has trained into a folder that `metarl_jax.load` reads back."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax import algorithms
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.guard import guarded
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.config.file import write_config
from metarl_jax.runs.own import as_plain, configured, is_plain
from metarl_jax.runs.storage.folder import check_path
from metarl_jax.types import MetaState


def save(folder: str | Path, algorithm: MetaAlgorithm, state: MetaState) -> Path:
    """Writes θ, the optimizer's state and how the algorithm was made into a new folder, for `metarl_jax.load`.

    Names stand for what `metarl_jax.algorithms.make` and `metarl_jax.envs.make` made, with their options:
    ``load(folder)`` makes it again. Objects of your own, such as a `TaskEnv`, a policy or a schedule, are not in the
    folder, so whoever loads must bring them: ``load(folder, env=env, policy=policy)``.

    A folder without such objects is one for the scripts evaluate.py and render.py too. It has no metrics.csv, so
    train.py does not go on with it; `metarl_jax.training.train` does, from ``load(folder).state``.

    Args:
        folder: the new folder, created at once and whole; an empty one may be there.
        algorithm: what was trained, made by a registered name.
        state: what `metarl_jax.training.train` yields as ``chunk.state``, or ``algorithm.update`` returns; with R
            seeds, leaves [R, ...], which ``load(folder, seed=0)`` to ``seed=R − 1`` tell apart.

    Returns:
        The folder.

    Raises:
        ValueError: the folder is not empty, no name stands for the algorithm, or the state is another's.
        OSError: the folder cannot be written.

    Example:
        >>> algorithm = mrl.algorithms.make("maml", mrl.envs.make("point-nav", horizon=5), tasks=2, episodes=3)
        >>> for chunk in mrl.training.train(algorithm, jax.random.key(0), iterations=2):
        ...     state = chunk.state
        >>> folder = mrl.save(pathlib.Path(tempfile.mkdtemp()) / "mine", algorithm, state)
        >>> mrl.load(folder).iteration
        2
    """
    if not isinstance(folder, str | Path) or str(folder) in ("", "."):
        raise ValueError(f"folder is {folder!r}; it must be the path of the new folder")
    folder = Path(folder)
    check_path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is there and not empty; choose another folder, or move it away")
    config, state = _configuration(algorithm), _checked(algorithm, state)
    seeds = state.iteration.shape[0] if state.iteration.ndim else 1
    iterations = max(1, int(np.max(state.iteration)))
    return write_run(dataclasses.replace(config, seeds=seeds, iterations=iterations, folder=str(folder)), state)


def write_run(config: TrainConfig, state: MetaState, metrics: bytes | None = None) -> Path:
    """Creates the run folder of a configuration, atomically, with one checkpoint and, if given, the metrics.csv."""
    from metarl_jax.runs.checkpoint.checkpoints import Checkpoints  # imports orbax

    folder = config.run_folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new = Path(temporary) / "run"
        new.mkdir()
        checkpoints = Checkpoints(new, config, state, write=True)
        try:
            checkpoints.save(state)
        finally:
            checkpoints.close()
        if metrics is not None:
            (new / "metrics.csv").write_bytes(metrics)
        write_config(config, new)
        new.rename(folder)
    return folder


def _configuration(algorithm: MetaAlgorithm) -> TrainConfig:
    """What makes the algorithm again; `TrainConfig.own` names what it cannot hold.

    Raises:
        ValueError: no registered name stands for the algorithm.
    """
    recipe = algorithm.recipe if isinstance(algorithm, MetaAlgorithm) else None
    if recipe is None or recipe.name not in algorithms.ALGORITHMS:
        raise ValueError(
            f"algorithm is {algorithm!r}, which no name stands for; make it by metarl_jax.algorithms.make, one of your "
            "own after metarl_jax.algorithms.register"
        )
    if replaced := recipe.replaced(algorithm):
        raise ValueError(
            f"{' and '.join(replaced)} of the algorithm {recipe.name!r} was replaced after it was made, which no name "
            "stands for; make the algorithm that you want to load, or register one of your own"
        )
    options = dict(recipe.options)
    config, _ = configured(recipe.name, options.pop("policy", None), options)
    named = _named(recipe.env)
    if named is None:
        return dataclasses.replace(config, task=recipe.env.name)
    return dataclasses.replace(config, **named, own=tuple(name for name in config.own if name != "env"))


def _named(env: TaskEnv) -> dict[str, Any] | None:
    """The fields of `TrainConfig` that make the environment again; None: it is one that no name stands for."""
    if env.recipe is None or env.recipe.replaced(env):
        return None
    options = {name: as_plain(value) for name, value in env.recipe.options.items()}
    fields = {name: options.pop(name) for name in ("split", "backend", "horizon")}
    if fields.pop("split") != "train" or not all(map(is_plain, options.values())):
        return None
    return fields | {
        "task": env.recipe.name,
        "env_option": tuple(f"{name}={value!r}" for name, value in options.items()),
    }


def _checked(algorithm: MetaAlgorithm, state: Any) -> MetaState:
    """The state as training has it, whose axis of seeds is there for several only.

    Raises:
        ValueError: it is not a state, or not one of this algorithm.
    """
    from metarl_jax.runs.checkpoint.leaves import layout

    if not isinstance(state, MetaState):
        raise ValueError(
            f"state is of type {type(state).__name__}; it must be a metarl_jax.MetaState, as the chunks of "
            "metarl_jax.training.train have it"
        )
    if np.shape(state.iteration) == (1,):
        state = jax.tree.map(lambda leaf: leaf[0], state)
    seeds = np.shape(state.iteration)
    init = jax.vmap(algorithm.init) if seeds else algorithm.init
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), seeds))
    state, wanted = guarded(state), layout(jax.eval_shape(lambda keys: guarded(init(keys)), keys))
    given = layout(state)
    for path in sorted(wanted.keys() | given.keys(), key=lambda path: (not path.startswith(".params"), path)):
        if wanted.get(path) != given.get(path):
            raise ValueError(
                f"state is not one of {algorithm!r}: {path} is {given.get(path, 'absent')}, and "
                f"{wanted.get(path, 'absent')} in a state of its own"
            )
    return state
