"""A whole run of an environment, a policy or an optimiser that no registry knows, from a user's own program."""

import dataclasses
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl_jax import algorithms, checks
from metarl_jax.base import TaskEnv
from metarl_jax.envs.registry import in_split
from metarl_jax.runs import config as configs
from metarl_jax.runs.config import Build, Built, EvaluationConfig, TrainConfig
from metarl_jax.runs.config.options import AlgorithmConfig, PolicyConfig
from metarl_jax.runs.console import cli
from metarl_jax.runs.console.signals import Interrupted
from metarl_jax.runs.load import Loaded, loaded
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
    folder: whoever calls again must bring the same ones. Only the shapes of θ are compared.

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
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written. Other signals end the process in the same way.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=5)  # or your own TaskEnv
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "run"
        >>> sizes = {"tasks": 2, "episodes": 3, "iterations": 2, "eval_tasks": 2}
        >>> run = mrl.runs.train(env, "maml", folder, policy={"hidden": (4,)}, quiet=True, **sizes)
        >>> run.iteration, (folder / "adaptation.png").exists()
        (2, True)
    """
    if not isinstance(env, TaskEnv):
        raise ValueError(f"env is {env!r}; it must be a metarl_jax.TaskEnv")
    config, objects = _split(env, algorithm, policy, settings)
    config = dataclasses.replace(config, folder=str(folder))
    if config.evaluation.eval_split == "ood" and ood is None:
        raise ValueError("eval_split is 'ood', and there is no environment for it; give ood= one")
    build = _builder({"train": env, "test": in_split(env, "test"), "ood": ood and in_split(ood, "ood")}, objects)
    console = cli.console(quiet)
    try:
        train_run(config, console, resume=resumable(Path(folder)), override=True, build=build)
    except cli.UserError as error:
        raise ValueError(str(error)) from error
    except Interrupted as stopped:
        if stopped.status == 128 + signal.SIGINT:
            raise KeyboardInterrupt(str(stopped)) from None
        raise SystemExit(str(stopped)) from None
    except cli.RunStopped as stopped:
        raise RuntimeError(str(stopped)) from stopped
    return loaded(Path(folder), "newest", config.evaluation.eval_split, config.seed, build)


def _split(
    env: TaskEnv, algorithm: str, policy: Any, settings: Mapping[str, Any]
) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration that the folder keeps, and the options that it cannot hold.

    Raises:
        ValueError: a setting is unknown or out of range.
    """
    known = algorithms.options(algorithm)
    for name in settings:
        if name not in known.keys() | RUN | EVALUATION:
            raise checks.unknown(f"setting of a run of {algorithm}", name, [*known, *sorted(RUN | EVALUATION)])
    options = {name: value for name, value in settings.items() if name not in RUN | EVALUATION}
    plain = {name: _plain(value) for name, value in options.items() if _is_plain(value)}
    objects = {name: value for name, value in options.items() if name not in plain and value is not None}
    described = PolicyConfig()
    if isinstance(policy, Mapping):
        described = PolicyConfig(**{name: _plain(value) for name, value in policy.items()})
    elif policy is not None:
        objects["policy"] = policy
    if "outer_lr" in objects and {"outer_lr_schedule", "warmup"} & settings.keys():
        raise ValueError("outer_lr is a schedule of your own; leave outer_lr_schedule and warmup out")
    flags = {field.name for field in dataclasses.fields(AlgorithmConfig)} - {"option"}
    pairs = tuple(f"{name}={value!r}" for name, value in plain.items() if name not in flags)
    rates = {name: (plain[name],) for name in ("inner_lr", "std_lr") if isinstance(plain.get(name), int | float)}
    flagged: dict[str, Any] = {name: value for name, value in (plain | rates).items() if name in flags}
    return TrainConfig(
        task=env.name,
        algorithm=algorithm,
        own=("env", *sorted(objects)),
        algorithm_options=AlgorithmConfig(**flagged, option=pairs),
        policy=described,
        evaluation=EvaluationConfig(**{name: value for name, value in settings.items() if name in EVALUATION}),
        **{name: value for name, value in settings.items() if name in RUN},
    ), objects


def _is_plain(value: Any) -> bool:
    """Whether a configuration can hold it: numbers, words, and sequences of them."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value


def _builder(splits: Mapping[str, Any], objects: Mapping[str, Any]) -> Build:
    """As `metarl_jax.runs.config.build`, with these environments and options."""

    def build(config: TrainConfig, split: str = "train", **overrides: Any) -> Built:
        return configs.with_env(config, splits[split], **(dict(objects) | overrides))

    return build
