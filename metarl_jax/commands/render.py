"""The command line of experiments/render.py and metarl-render."""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs import startup

    startup.quiet()

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from metarl_jax.runs import cli, startup
from metarl_jax.runs.config_file import task_of

DESCRIPTION = """Show a trained run at work: episodes in held-out tasks before and after adaptation, side by side.

For a Brax family: bodies.html, a page with both bodies that opens offline (buttons for the tasks, play, a time slider,
drag to turn; #task=2&t=0.5 behind its address shows one moment), and a video per task. For a point family: paths.png.
The tasks are the first of those that evaluate.py takes. Actions are sampled from the policy, as in training; before and
after, episodes start alike and draw the same noise."""


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
    """whose tasks: test, ood or train (None: the run's --eval-split, test unless set)"""
    folder: Path | None = None
    """where to write (None: RUN/renders)"""
    video: bool = True
    """also write a video per task of a body: MP4 where ffmpeg is installed, else GIF"""
    brax_viewer: bool = False
    """also write Brax's own pages, a page per body, which load their viewer from the network when opened"""


def main(argv: Sequence[str]) -> None:
    """Runs the script with these arguments.

    Raises:
        UserError: they do not parse, or a value is not allowed.
    """
    arguments = cli.parse(Arguments, argv, prog=cli.program("render"), description=DESCRIPTION)
    cli.prepare_jax(task_of(arguments.run))
    cli.import_modules()
    with startup.at_once():
        from metarl_jax.runs.render import render_run

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
