"""The command line of experiments/show_tasks.py and metarl-tasks."""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from metarl_jax.runs.console import cli, startup

DESCRIPTION = """Show a task family: its card, a plot of sampled tasks, and the returns of two trivial policies.

One takes random actions: normal with the family's option action_scale as standard deviation (1 without that option), or
uniform if actions are discrete. The other always takes action 0. The plot is FOLDER/NAME.png."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of show_tasks.py."""

    name: Annotated[str, tyro.conf.Positional]
    """task family, with or without version, such as cheetah-vel or cheetah-vel@promp2019"""
    split: str = "train"
    """split of the tasks: train, test or ood; others than train become a suffix of the plot's name"""
    tasks: int = 100
    """tasks to sample"""
    episodes: int = 2
    """episodes per task and trivial policy"""
    seed: int = 0
    """seed of the tasks; with --split test they are the held-out tasks of evaluate.py --seed"""
    backend: str | None = None
    """physics of robots: spring, generalized, positional or mjx of Brax, or mujoco (None: the family's default)"""
    horizon: int | None = None
    """T, environment steps per episode (None: the family's default)"""
    env_option: tuple[str, ...] = ()
    """further options of the family, as NAME=VALUE"""
    folder: Path = Path("runs/tasks")
    """folder of the plot"""


def main(argv: Sequence[str]) -> None:
    """Runs the script with these arguments.

    Raises:
        UserError: they do not parse, or a value is not allowed.
    """
    arguments = cli.parse(Arguments, argv, prog=cli.program("show_tasks"), description=DESCRIPTION)
    cli.prepare_jax(arguments.name)
    cli.import_modules()
    with startup.at_once():
        from metarl_jax.runs.config import ENV_SET_BY, parse_options
        from metarl_jax.runs.pictures.show_tasks import show_tasks

    with cli.user_errors():
        options = parse_options("env-option", arguments.env_option, ENV_SET_BY)
    show_tasks(
        arguments.name,
        cli.console(),
        split=arguments.split,
        tasks=arguments.tasks,
        episodes=arguments.episodes,
        seed=arguments.seed,
        backend=arguments.backend,
        horizon=arguments.horizon,
        options=options,
        output=arguments.folder,
    )


def start() -> int:
    """Runs the script with the arguments of the process; returns the exit status."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(start())
