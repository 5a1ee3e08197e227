"""A whole run of an environment, a policy or an optimiser that no registry knows, from a user's own program."""

import dataclasses
import math
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import algorithms, checks
from metarl_jax.base import TaskEnv
from metarl_jax.runs.config import EvaluationConfig, TrainConfig
from metarl_jax.runs.config.options import AlgorithmConfig, PolicyConfig
from metarl_jax.runs.console import cli
from metarl_jax.runs.console.signals import Interrupted
from metarl_jax.runs.load import Loaded, build_with, loaded
from metarl_jax.runs.run import train_run
from metarl_jax.runs.storage.folder import resumable

RUN = frozenset(
    {"iterations", "outer_lr_schedule", "warmup", "seed", "seeds", "devices", "on_nonfinite", "patience"}
    | {"checkpoint_every", "keep", "wandb"}
)
"""Settings of `train` that are those of `metarl_jax.runs.config.TrainConfig`."""
EVALUATION = frozenset(field.name for field in dataclasses.fields(EvaluationConfig))
"""Settings of `train` that are those of `metarl_jax.runs.config.EvaluationConfig`."""


def train(
    env: TaskEnv,
    algorithm: str,
    folder: str | Path,
    *,
    policy: Any = None,
    ood: TaskEnv | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Loaded:
    """Trains, or goes on with, a run of your own environment, and evaluates it; all results are in one folder.

    It is what the script train.py does: metrics.csv, TensorBoard, checkpoints, pictures, and an evaluation on held-out
    tasks. If the process is killed, the same call goes on from the newest checkpoint, bit for bit. If the run is
    complete, the same call evaluates it once more; with more `iterations`, it trains on.

    Objects, such as the environment, a `metarl_jax.Policy`, a schedule or a baseline of your own, are not in the
    folder: whoever calls again must bring the same ones. Only the shapes of θ are compared. ``mrl.load(folder, env=...,
    policy=..., seed=1)`` with the same objects loads θ of other seeds and checkpoints.

    Args:
        env: p(M) and its MDPs; its name is that of the run.
        algorithm: a registered name, your own too, see `metarl_jax.algorithms.register`.
        folder: the run folder, created if it is not there.
        policy: a policy or the options of the default one, as for `metarl_jax.algorithms.make`.
        ood: an environment whose tasks lie outside of the training distribution, for ``eval_split="ood"``.
        quiet: print nothing.
        **settings: options of the algorithm, and settings of the run: `iterations` (200), `seed`, `seeds`,
            `checkpoint_every` (25), `keep`, `devices`, `on_nonfinite`, `patience`, `outer_lr_schedule`, `warmup`,
            `wandb`, `eval_tasks` (40), `eval_steps`, `eval_seed`, `eval_split`; the flags of train.py mean the same.

    Returns:
        What `metarl_jax.load` returns: the environment that draws held-out tasks, the algorithm, θ of the first seed,
        the configuration and the number of meta-updates.

    Raises:
        ValueError: a setting is unknown or out of range, or the folder holds another run.
        RuntimeError: training had to stop, for numbers that are not finite, or since the disk is full.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
        SystemExit: another signal, after a checkpoint was written; the status is that of the scripts.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=5)  # or your own TaskEnv
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "run"
        >>> sizes = {"tasks": 2, "episodes": 3, "iterations": 2, "eval_tasks": 2}
        >>> run = mrl.runs.train(env, "maml", folder, policy={"hidden": (4,)}, quiet=True, **sizes)
        >>> run.iteration, (folder / "adaptation.png").exists()
        (2, True)
    """
    if not isinstance(folder, str | Path) or str(folder) in ("", "."):
        raise ValueError(f"folder is {folder!r}; it must be the path of the run's folder")
    config, objects = configured(algorithm, policy, settings)
    build = build_with(env, ood, objects)
    if config.evaluation.eval_split == "ood" and ood is None:
        raise ValueError("eval_split is 'ood', and there is no environment for it; give ood= one")
    config = dataclasses.replace(config, task=env.name, folder=str(folder))
    console = cli.console(quiet)
    try:
        train_run(config, console, resume=resumable(Path(folder)), override=True, build=build)
    except cli.UserError as error:
        raise ValueError(str(error)) from error
    except Interrupted as stopped:
        if stopped.status == 128 + signal.SIGINT:
            raise KeyboardInterrupt(str(stopped)) from None
        sys.stderr.write(f"{stopped}\n")
        raise SystemExit(stopped.status) from None
    except cli.RunStopped as stopped:
        raise RuntimeError(str(stopped)) from stopped
    return loaded(Path(folder), "newest", config.evaluation.eval_split, config.seed, build)


def configured(algorithm: str, policy: Any, given: Mapping[str, Any]) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration that the folder keeps, and the options that it cannot hold.

    Raises:
        ValueError: a setting is unknown or out of range.
    """
    if not isinstance(algorithm, str):
        raise ValueError(
            f"algorithm is of type {type(algorithm).__name__}; it must be a name, one of your own by "
            "metarl_jax.algorithms.register"
        )
    known = algorithms.options(algorithm)
    for name in given:
        if name not in known.keys() | RUN | EVALUATION:
            raise checks.unknown(f"setting of a run of {algorithm}", name, [*known, *sorted(RUN | EVALUATION)])
        if name in known and name in RUN | EVALUATION:
            raise ValueError(
                f"{name} is an option of {algorithm} and a setting of the run; give the option another name"
            )
    settings = {name: as_plain(value) for name, value in given.items()}
    options = {name: value for name, value in settings.items() if name not in RUN | EVALUATION}
    objects = {name: value for name, value in options.items() if not is_plain(value)}
    # None asks for nothing where it is the default; elsewhere it is a value, which a configuration takes for none.
    objects |= {name: None for name, value in options.items() if value is None and known[name] is not None}
    plain = {name: value for name, value in options.items() if name not in objects and value is not None}
    described, policy = _described(policy)
    if policy is not None:
        objects["policy"] = policy
    if {"outer_lr", "outer_optimizer"} & objects.keys() and {"outer_lr_schedule", "warmup"} & settings.keys():
        raise ValueError("the outer rate is an object of your own; leave outer_lr_schedule and warmup out")
    flags = {field.name for field in dataclasses.fields(AlgorithmConfig)} - {"option"}
    pairs = tuple(f"{name}={value!r}" for name, value in plain.items() if name not in flags)
    rates = {name: (plain[name],) for name in ("inner_lr", "std_lr") if isinstance(plain.get(name), int | float)}
    flagged: dict[str, Any] = {name: value for name, value in (plain | rates).items() if name in flags}
    return TrainConfig(
        algorithm=algorithm,
        own=("env", *sorted(objects)),
        algorithm_options=AlgorithmConfig(**flagged, option=pairs),
        policy=described,
        evaluation=EvaluationConfig(**{name: value for name, value in settings.items() if name in EVALUATION}),
        **{name: value for name, value in settings.items() if name in RUN},
    ), objects


def _described(policy: Any) -> tuple[PolicyConfig, Any]:
    """The options of the default policy, and None; or none, and the policy that a configuration cannot hold."""
    if not isinstance(policy, Mapping):
        return PolicyConfig(), policy
    names = [field.name for field in dataclasses.fields(PolicyConfig)]
    options = {name: as_plain(value) for name, value in policy.items()}
    for name in options:
        checks.one_of("option of the policy", name, names)
    if not all(map(is_plain, options.values())):
        return PolicyConfig(), options
    return PolicyConfig(**options), None


def is_plain(value: Any) -> bool:
    """Whether a configuration can hold it: None, finite numbers, words, and tuples of them."""
    if isinstance(value, tuple):
        return all(one is not None and is_plain(one) for one in value)
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def as_plain(value: Any) -> Any:
    """Numbers of NumPy and JAX as those of Python, lists and rows of numbers as tuples; all else as it is."""
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return tuple(map(as_plain, value))
    if not isinstance(value, np.generic | np.ndarray | jax.Array) or value.ndim > 1:
        return value
    is_number = jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool
    return as_plain(np.asarray(value).tolist()) if is_number else value
