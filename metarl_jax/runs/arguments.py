"""The command line of experiments/train.py as a configuration; a sweep reads its members' arguments with it too.

Importing this module loads no JAX, so that a script's help text can answer at once.
"""

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metarl_jax.runs import cli, presets
from metarl_jax.runs.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TrainConfig):
    """What train.py takes: a configuration, and what to do with it."""

    resume: bool = False
    """go on from the newest checkpoint of --folder, whose configuration then is the default"""


class Asked(NamedTuple):
    """What a command line asks for."""

    config: TrainConfig
    resume: bool
    why: str
    """where the values come from that were not given"""
    dropped: list[str]
    """options of the preset that the algorithm, chosen explicitly, does not have"""


def defaults(argv: Sequence[str]) -> tuple[TrainConfig, str]:
    """What explicit options override, and a line that says where it comes from.

    Raises:
        UserError: an option lacks its value.
        ValueError: the preset is unknown, or the folder to resume holds no readable configuration.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--preset", "--task", "--folder"):
        early.add_argument(flag)
    early.add_argument("--resume", action="store_true")
    try:
        given = early.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        raise cli.UserError(f"{error} (--help lists every option)") from error
    if given.preset is not None:
        return presets.get(given.preset), f"preset {given.preset}, as asked for"
    if given.resume and given.folder is not None:
        from metarl_jax.runs.run import read_config

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


def parse(argv: Sequence[str], **settings: Any) -> Asked:
    """Reads a command line.

    Args:
        argv: without the script's name.
        **settings: of the help text, see `metarl_jax.runs.cli.parse`.

    Raises:
        UserError: the arguments do not parse, or the values are not allowed.
        SystemExit: after the help text was printed.
    """
    with cli.user_errors():
        default, why = defaults(argv)
    given = cli.parse(Arguments, argv, default=Arguments(**vars(default)), **settings)
    config = TrainConfig(**{field.name: getattr(given, field.name) for field in dataclasses.fields(TrainConfig)})
    from metarl_jax import algorithms

    with cli.user_errors():
        config, dropped = presets.adopt(config, algorithms.options(config.algorithm))
    return Asked(config, given.resume, why, dropped)


def hints(kind: type = Arguments) -> dict[str, Any]:
    """Every option by its name, with the type of its value."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        found |= hints(typing.cast(type, hint)) if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def flag(name: str) -> str:
    """An option's name as the command line has it."""
    return "--" + name[:-1].replace("_", "-") + name[-1]
