"""The command line of experiments/train.py, parsed into a configuration. Sweeps use it for their members too.

This module does not import JAX, so that `--help` is fast.
"""

import argparse
import dataclasses
import itertools
import re
import sys
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from metarl_jax.runs.config import TrainConfig, parse_options, presets
from metarl_jax.runs.config.options import FLAG_NAMES, AlgorithmConfig
from metarl_jax.runs.console import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Options of this start that are not part of the run's configuration."""

    resume: bool = False
    """go on from the newest checkpoint of --folder, whose configuration then is the default"""
    override: bool = False
    """let --resume change what leaves earlier iterations as they are: --iterations, --checkpoint-every, --keep,
    --wandb, --devices, --on-nonfinite, --patience and the evaluation"""
    debug_nans: bool = False
    """if a number is not finite, find the operation that it comes from"""
    lock: Literal["kernel", "file"] = "kernel"
    """what keeps a second process from the folder: a lock of the kernel or, on a file system without them, also a file
    that a killed process leaves behind"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Several processes that train together; see docs/clusters.md."""

    distributed: bool = False
    """one of several processes, described by Slurm, Kubernetes, Open MPI or a TPU pod"""
    coordinator: str | None = None
    """HOST:PORT of process 0, if no cluster provides it"""
    num_processes: int | None = None
    """number of processes, with --coordinator"""
    process_id: int | None = None
    """index of this process, from 0, with --coordinator"""

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self == Job()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TrainConfig):
    """Arguments of train.py: a configuration, and options of this start."""

    own: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    config: Path | None = None
    """settings from this file, a config.json of a run, which the other options override"""
    start: Start = Start()
    job: Job = Job()


class Asked(NamedTuple):
    """A parsed command line."""

    config: TrainConfig
    start: Start
    why: str
    """origin of the values that were not given"""
    dropped: list[str]
    """options of the preset that the algorithm, chosen explicitly, does not have"""


def kind() -> type[Arguments]:
    """`Arguments`, with further flags for options that only the user's own algorithms have."""
    if "metarl_jax.algorithms" not in sys.modules:  # so nothing was registered
        return Arguments
    from metarl_jax import algorithms
    from metarl_jax.runs.config import flags

    known = hints(Arguments)
    own = {name: flag for name, flag in flags.of_algorithms(algorithms.registered()).items() if name not in known}
    if not own:
        return Arguments
    fields = [(n, Annotated[flag.kind | None, tyro.conf.arg(help=flag.text)], None) for n, flag in own.items()]
    options = dataclasses.make_dataclass("Options", fields, bases=(AlgorithmConfig,), frozen=True, kw_only=True)
    nested = [("algorithm_options", options, dataclasses.field(default_factory=options))]
    return dataclasses.make_dataclass("AllArguments", nested, bases=(Arguments,), frozen=True, kw_only=True)


def _package_options(options: AlgorithmConfig) -> AlgorithmConfig:
    """The same with the user's own flags as NAME=VALUE, so that config.json has the same fields for all runs."""
    values: dict[str, Any] = dict(vars(options))
    known = {field.name for field in dataclasses.fields(AlgorithmConfig)}
    own = {name: values.pop(name) for name in list(values) if name not in known}
    own = {name: value for name, value in own.items() if value is not None}
    pairs = {pair.partition("=")[0]: pair for pair in values["option"]}
    before = parse_options("option", values["option"])
    changed = {name: value for name, value in own.items() if name not in before or before[name] != value}
    pairs |= {name: f"{name}={value!r}" for name, value in changed.items()}
    values["option"] = tuple(pairs.values())
    return AlgorithmConfig(**values)


def _typed(argv: Sequence[str]) -> dict[str, str]:
    """The flags of a command line, each with the word after it."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    pairs = itertools.zip_longest(words, words[1:], fillvalue="")
    return {word.replace("_", "-"): after for word, after in pairs if word.startswith("--")}


def _with_none(options: AlgorithmConfig, names: Iterable[str], algorithm: str, argv: Sequence[str]) -> AlgorithmConfig:
    """The same, where a flag's None is a value: one that the algorithm takes, and that is not its default.

    Elsewhere None stands for the default. As a value it becomes NAME=None.

    Args:
        options: as they were parsed.
        names: those with flags.
        algorithm: whose options they are.
        argv: the command line.

    Raises:
        ValueError: the algorithm is unknown, or `--option` sets what a flag sets to None.
    """
    typed = _typed(argv)
    given = {name: typed[flag(name)] for name in names if flag(name) in typed}
    if not given:
        return options
    from metarl_jax.runs.config import flags

    none = [name for name, word in given.items() if word == "None" and flags.takes_none(algorithm, name)]
    kept = options.option
    if "--option" not in typed:  # so they are those of a file or a preset, which flags replace
        kept = tuple(pair for pair in kept if not (pair.endswith("=None") and pair.removesuffix("=None") in given))
    if twice := {pair.partition("=")[0] for pair in kept} & {*none}:
        name = min(twice)
        raise ValueError(f"{flag(name)} is None, and --option sets {name} too; give one of them")
    return dataclasses.replace(options, option=(*kept, *(f"{name}=None" for name in none)))


def _early(argv: Sequence[str]) -> argparse.Namespace:
    """The options that decide how the rest is parsed."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--preset", "--config", "--task", "--folder", "--coordinator"):
        early.add_argument(name)
    for name in ("--num-processes", "--process-id"):
        early.add_argument(name, type=int)
    for name in ("--resume", "--distributed"):
        early.add_argument(name, action="store_true")
    try:
        return early.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        raise cli.UserError(f"{error} (--help lists every option)") from error


def job(argv: Sequence[str]) -> Job:
    """The processes that a command line describes. They must connect before JAX is used.

    Raises:
        UserError: an option lacks its value, or has one of the wrong type.
    """
    given = _early(argv)
    return Job(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Job)})


def task(argv: Sequence[str]) -> str | None:
    """The task of a command line, before JAX is used; a wrong name is reported later."""
    given = _early(argv)
    if given.task is not None:
        return given.task
    if given.resume and given.folder is not None:
        from metarl_jax.runs.config.file import task_of

        return task_of(Path(given.folder))
    if given.config is not None:
        from metarl_jax.runs.config.file import task_of

        return task_of(Path(given.config).parent, Path(given.config).name)
    return presets.PRESETS[given.preset if given.preset in presets.PRESETS else presets.for_device("cpu")].task


def defaults(argv: Sequence[str]) -> tuple[TrainConfig, str]:
    """The values that explicit options override, and a line on their origin.

    Raises:
        UserError: an option lacks its value.
        ValueError: the preset is unknown, or the configuration to start from cannot be read.
    """
    given = _early(argv)
    if given.config is not None:
        for flag, chosen in {"--preset": given.preset, "--resume": given.resume}.items():
            if chosen:
                raise cli.UserError(f"{flag} and --config both say where the settings come from; give one of them")
        from metarl_jax.runs.config.file import read_config

        path = Path(given.config)
        return dataclasses.replace(read_config(path.parent, path.name), folder=None), f"configuration in {path}"
    if given.preset is not None:
        return presets.get(given.preset), f"preset {given.preset}, as asked for"
    if given.resume and given.folder is not None:
        from metarl_jax.runs.config.file import read_config

        return read_config(Path(given.folder)), f"configuration of {given.folder}"
    if given.task is not None:
        tuned = [
            name for name, preset in presets.PRESETS.items() if preset.task.split("@")[0] == given.task.split("@")[0]
        ]
        hint = f" (tuned settings for this task: --preset {' or '.join(tuned)})" if tuned else ""
        return TrainConfig(), f"no preset, since --task is given{hint}"
    if {"-h", "--help"} & set(argv):
        return TrainConfig(), ""
    import jax

    platform = jax.default_backend()
    name = presets.for_device(platform)
    return presets.get(name), f"preset {name}, the default on a {platform.upper()}; --preset NAME chooses another"


def _of_the_family(message: str, default: TrainConfig, argv: Sequence[str]) -> str:
    """A hint where an unknown flag is an option of the task family; "" elsewhere."""
    from metarl_jax import envs

    found = re.match(r"Unrecognized options: --([\w-]+)", message)
    family = envs.FAMILIES.get((_early(argv).task or default.task).split("@")[0])
    name = found[1].replace("-", "_") if found else ""
    if family is None or name not in next(iter(family.versions.values())):
        return ""
    return f"; {name} is an option of {family.name}: --env-option {name}=VALUE"


def parse(argv: Sequence[str], **settings: Any) -> Asked:
    """Reads a command line.

    Args:
        argv: without the script's name.
        **settings: of the help text, see `metarl_jax.runs.console.cli.parse`.

    Raises:
        UserError: the arguments do not parse, or the values are not allowed.
        SystemExit: after the help text was printed.
    """
    with cli.user_errors():
        default, why = defaults(argv)
    accepted = kind()
    options = typing.get_type_hints(accepted)["algorithm_options"](**vars(default.algorithm_options))
    before: dict[str, Any] = {**vars(default), "algorithm_options": options}
    try:
        given = cli.parse(accepted, argv, default=accepted(**before), **settings)
    except cli.UserError as error:
        hint = _of_the_family(str(error), default, argv)
        raise cli.UserError(str(error).replace(" (--help", f"{hint} (--help")) from error
    values: dict[str, Any] = {field.name: getattr(given, field.name) for field in dataclasses.fields(TrainConfig)}
    with cli.user_errors():
        options = _package_options(given.algorithm_options)
        names = vars(given.algorithm_options).keys() - {"option"}
        values["algorithm_options"] = _with_none(options, sorted(names), given.algorithm, argv)
    config = TrainConfig(**values)
    from metarl_jax import algorithms

    if given.start.override and not given.start.resume:
        raise cli.UserError("--override is about what --resume may change; give --resume too, or leave --override out")
    with cli.user_errors():
        if config.wandb is not None:
            from metarl_jax.runs.logging.loggers import require_wandb

            require_wandb(config.wandb)
        config, dropped = presets.adopt(config, algorithms.options(config.algorithm))
    return Asked(config, given.start, why, dropped)


def hints(arguments: type | None = None) -> dict[str, Any]:
    """Every option by its name, with the type of its value."""
    options = {}
    for name, hint in typing.get_type_hints(kind() if arguments is None else arguments).items():
        options |= hints(typing.cast(type, hint)) if dataclasses.is_dataclass(hint) else {name: hint}
    return options


def folder_option(folder: Path) -> list[str]:
    """--folder as words of a command line, which would take a name that begins with a dash for an option."""
    return ["--folder", f"./{folder}" if str(folder).startswith("-") else str(folder)]


def flag(name: str) -> str:
    """An option's name as the command line has it."""
    return "--" + FLAG_NAMES.get(name, name).replace("_", "-")
