"""The zoo's folders: reading them, creating one from a run, and unpacking one into a run folder."""

import dataclasses
import json
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax.checks import one_of
from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoint.leaves import by_path, digest
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.config.file import from_json, to_json
from metarl_jax.runs.load import Loaded
from metarl_jax.runs.load import load as load_run
from metarl_jax.types import PyTree

ROOT = Path(__file__).parent
LICENCE = "that of metarl_jax"


def names() -> tuple[str, ...]:
    """Names of the entries, as TASK/ALGORITHM or TASK/ALGORITHM-VARIANT."""
    return tuple(sorted(str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/*/about.json")))


def _folder(name: str) -> Path:
    return ROOT / one_of("name in the zoo", name, names())


def about(name: str) -> dict[str, Any]:
    """Origin of an entry's θ: `command`, `date`, `hardware`, `seed`, `iteration`, `licence`, `sha256`.

    Raises:
        ValueError: there is no such name.
    """
    return json.loads((_folder(name) / "about.json").read_text())


def evaluation(name: str) -> dict[str, Any]:
    """Evaluation of an entry: the content of its evaluation.json.

    Raises:
        ValueError: there is no such name.
    """
    return json.loads((_folder(name) / "evaluation.json").read_text())


def _config(name: str) -> TrainConfig:
    folder = _folder(name)
    return from_json((folder / "config.json").read_text(), str(folder / "config.json"))


def load(name: str, split: str = "test") -> Loaded:
    """Environment, algorithm, θ and configuration of an entry, as `metarl_jax.load` returns them for a run folder.

    Args:
        name: one of `names()`.
        split: the tasks that the environment draws: "train", "test" or "ood".

    Raises:
        ValueError: there is no such name, or the file of θ is damaged.

    Example:
        >>> run = mrl.zoo.load("point-nav/maml-trpo")
        >>> adapt = jax.jit(run.algorithm.adapt)
        >>> out = adapt(jax.random.key(0), run.params, mrl.envs.GoalTask(goal=[0.3, -0.1]))
        >>> bool(out.returns[1].mean() > out.returns[0].mean())  # one inner step on twenty episodes
        True
    """
    config = _config(name)
    built = configs.build(config, split=split)
    like = jax.eval_shape(built.algorithm.init, jax.random.key(0)).params
    return Loaded(built.env, built.algorithm, _theta(name, like), config, about(name)["iteration"])


def _theta(name: str, like: PyTree) -> PyTree:
    path = _folder(name) / "theta.npz"
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); install metarl_jax again") from error
    paths, tree = jax.tree_util.tree_flatten_with_path(like)
    expected = [jax.tree_util.keystr(path) for path, _ in paths]
    if sorted(expected) != sorted(arrays) or digest(arrays) != about(name)["sha256"]:
        raise ValueError(f"{path} is not the θ that about.json names; install metarl_jax again")
    return jax.tree.unflatten(tree, [jax.numpy.asarray(arrays[key]) for key in expected])


def unpack(name: str, folder: Path) -> Path:
    """Creates a run folder with this θ as its checkpoint, for use with all scripts: evaluate, render, train --resume.

    The optimizer's state is the initial one.

    Args:
        name: one of `names()`.
        folder: created atomically; an existing folder that holds this θ is left unchanged.

    Returns:
        The folder.

    Raises:
        ValueError: there is no such name, or the folder exists and holds something else.
    """
    from metarl_jax.runs.checkpoint.states import initial_state
    from metarl_jax.runs.save import write_run

    loaded = load(name, split="train")
    if folder.exists():
        if not _holds(folder, loaded):
            raise ValueError(f"{folder} is there and does not hold {name} of the zoo alone; move it away")
        return folder
    start = initial_state(configs.Built(loaded.env, loaded.algorithm), loaded.config)
    iteration = jax.numpy.full_like(start.iteration, loaded.iteration)
    state = dataclasses.replace(start, params=loaded.params, iteration=iteration)
    config = dataclasses.replace(loaded.config, folder=str(folder))
    return write_run(config, state, (_folder(name) / "metrics.csv").read_bytes())


def _holds(folder: Path, loaded: Loaded) -> bool:
    """Whether the newest checkpoint of a folder is the loaded entry."""
    try:
        run = load_run(folder)
    except ValueError:
        return False
    leaves = (by_path(params) for params in (run.params, loaded.params))
    arrays = [{path: np.asarray(leaf) for path, leaf in one.items()} for one in leaves]
    return run.iteration == loaded.iteration and digest(arrays[0]) == digest(arrays[1])


def add(run: Path, name: str, command: str, hardware: str, root: Path = ROOT) -> Path:
    """Creates a folder of the zoo from an evaluated run, using the first seed.

    Args:
        run: folder of the run.
        name: name of the entry, as in `names()`.
        command: the command of the training.
        hardware: the hardware of the training.
        root: folder of the zoo.

    Returns:
        The new folder.

    Raises:
        ValueError: the run has no evaluation of its newest checkpoint, or there is an entry of this name.
        OSError: a file of the run cannot be read.
    """
    loaded = load_run(run)
    if not (run / "evaluation.json").exists():
        raise ValueError(f"{run} has no evaluation.json; experiments/evaluate.py writes it")
    report = json.loads((run / "evaluation.json").read_text())
    if report["iteration"] != loaded.iteration:
        raise ValueError(f"{run} was evaluated at iteration {report['iteration']}, not {loaded.iteration}")
    if loaded.config.seeds > 1:  # rows of the first seed; those of random initialisation are equal for all seeds
        report["rows"]["adapted"] = report.pop("per_seed")[0]["rows"]["adapted"]
        report["training_seeds"] = report["training_seeds"][:1]
    folder = root / name
    if folder.exists():
        raise ValueError(f"{folder} exists; move it away, or choose another name")
    config = dataclasses.replace(loaded.config, folder=None, seeds=1, wandb=None)
    metrics = _rows_of_first_seed(run / "metrics.csv", loaded.config)
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {path: np.asarray(leaf) for path, leaf in by_path(loaded.params).items()}
    np.savez_compressed(folder / "theta.npz", **arrays)
    (folder / "config.json").write_text(to_json(config))
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "metrics.csv").write_text(metrics)
    facts = {
        "command": command,
        "date": str(date.today()),
        "hardware": hardware,
        "seed": loaded.config.seed,
        "iteration": loaded.iteration,
        "licence": LICENCE,
        "sha256": digest(arrays),
    }
    (folder / "about.json").write_text(json.dumps(facts, indent=1) + "\n")
    return folder


def _rows_of_first_seed(path: Path, config: TrainConfig) -> str:
    head, *rows = path.read_text().splitlines()
    if config.seeds > 1:
        column = head.split(",").index("seed")
        rows = [row for row in rows if row.split(",")[column] == str(config.seed)]
    return "\n".join([head, *rows]) + "\n"
