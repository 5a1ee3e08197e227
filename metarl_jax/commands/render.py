"""The command line of experiments/render.py and metarl-render."""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from metarl_jax.runs.config.file import task_of
from metarl_jax.runs.console import cli, startup

DESCRIPTION = """Show episodes of a trained run in held-out tasks before and after adaptation, side by side.

For a robot: bodies.html, an offline page with both bodies (buttons for the tasks, play, a time slider, drag to rotate;
the fragment #task=2&t=0.5 in its address shows one point in time), and a video per task. For a point family: paths.png.
The tasks are the first of those that evaluate.py uses. Actions are sampled from the policy, as in training; before and
after adaptation, episodes have the same initial state and noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of render.py."""

    run: Annotated[Path, tyro.conf.Positional]
    """the run's folder"""
    tasks: int = 3
    """held-out tasks to show"""
    steps: int | None = None
    """inner steps of the adaptation (None: L of training)"""
    seed: int | None = None
    """seed of the held-out tasks (None: the run's --eval-seed, 0 unless set)"""
    split: str | None = None
    """split of the tasks: test, ood or train (None: the run's --eval-split, test unless set)"""
    folder: Path | None = None
    """output folder (None: RUN/renders)"""
    video: bool = True
    """also write a video per task of a robot: MP4 if ffmpeg is installed, else GIF"""
    brax_viewer: bool = False
    """also write Brax's pages, one per episode, which load their viewer from the network"""


def main(argv: Sequence[str]) -> None:
    """Runs the script with these arguments.

    Raises:
        UserError: they do not parse, or a value is not allowed.
    """
    arguments = cli.parse(Arguments, argv, prog=cli.program("render"), description=DESCRIPTION)
    cli.prepare_jax(task_of(arguments.run))
    cli.import_modules()
    with startup.at_once():
        from metarl_jax.runs.pictures.render import render_run

    render_run(
        arguments.run,
        cli.console(),
        tasks=arguments.tasks,
        steps=arguments.steps,
        seed=arguments.seed,
        split=arguments.split,
        output=arguments.folder,
        video=arguments.video,
        brax_viewer=arguments.brax_viewer,
    )


def start() -> int:
    """Runs the script with the arguments of the process; returns the exit status."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(start())
