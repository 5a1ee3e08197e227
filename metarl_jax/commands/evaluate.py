"""The command line of experiments/evaluate.py and metarl-evaluate."""

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

ZOO = Path(__file__).resolve().parent.parent / "zoo"

DESCRIPTION = "Adapt a trained run to held-out tasks: a table, evaluation.json and adaptation.png in its folder."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of evaluate.py."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """the run's folder"""
    zoo: str | None = None
    """instead of a run, a trained θ of the package, such as point-nav/maml-trpo; its folder is runs/zoo/NAME"""
    tasks: int | None = None
    """held-out tasks (None: the run's --eval-tasks, 40 unless set)"""
    steps: int | None = None
    """inner steps L', may exceed those of training; for recurrent policies, additional trials after the first (None:
    the run's --eval-steps, or the larger of 3 and L, or L if stages are single episodes)"""
    burn_in: int | None = None
    """initial stages that do not count in the mean over the trial (None: the run's value)"""
    episodes: int | None = None
    """episodes per stage; another number than in training becomes a suffix of the file names (None: as in training)"""
    stage_steps: int | None = None
    """environment steps per stage: whole episodes until the sum reaches this number, at most --episodes (None: the
    run's --stage-steps)"""
    inner_lr: tuple[float, ...] | None = None
    """rate of the inner steps, or one per step; others than in training become a suffix of the file names (None: as in
    training)"""
    inner_lr_beyond: str | None = None
    """rule for the rates of steps beyond those of training, or of --inner-lr: decay, halved at each step; inverse_sqrt,
    for hundreds of steps; constant (None: the run's --inner-lr-beyond, decay unless set)"""
    seed: int | None = None
    """seed of the held-out tasks; another than the run's becomes a suffix of the file names (None: the run's
    --eval-seed, 0 unless set)"""
    checkpoint: str = "newest"
    """newest, best (the highest return after adaptation in training) or an iteration"""
    split: str | None = None
    """split of the tasks: test, ood or train; others than test become a suffix of the file names (None: the run's
    --eval-split, test unless set)"""
    deterministic: bool = False
    """measure every stage by further episodes in which each action is the mode of the policy; the adaptation learns
    from sampled ones as ever; the file names get a suffix"""


def main(argv: Sequence[str]) -> None:
    """Runs the script with these arguments.

    Raises:
        UserError: they do not parse, or a value is not allowed.
    """
    arguments = cli.parse(Arguments, argv, prog=cli.program("evaluate"), description=DESCRIPTION)
    run, name = arguments.run, arguments.zoo
    if (run is None) == (name is None):
        raise cli.UserError("name the folder of a run, or a θ of the zoo by --zoo NAME, and not both")
    cli.prepare_jax(task_of(ZOO / (name or "") if run is None else run))
    cli.import_modules()
    with startup.at_once():
        from metarl_jax.runs.evaluation.evaluate import evaluate_run

    if run is None:
        assert name is not None
        from metarl_jax import zoo

        with cli.user_errors():
            run = zoo.unpack(name, Path("runs/zoo") / name)
    evaluate_run(
        run,
        cli.console(),
        tasks=arguments.tasks,
        steps=arguments.steps,
        burn_in=arguments.burn_in,
        episodes=arguments.episodes,
        stage_steps=arguments.stage_steps,
        inner_lr=arguments.inner_lr,
        inner_lr_beyond=arguments.inner_lr_beyond,
        seed=arguments.seed,
        split=arguments.split,
        checkpoint=arguments.checkpoint,
        deterministic=arguments.deterministic,
    )


def start() -> int:
    """Runs the script with the arguments of the process; returns the exit status."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(start())
