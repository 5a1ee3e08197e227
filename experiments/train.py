"""Meta-trains a policy, evaluates it on held-out tasks, and leaves everything in one run folder.

python experiments/train.py                                    # a default that suits this machine
python experiments/train.py --preset point-nav-finn2017        # named settings
python experiments/train.py --task cheetah-vel --algorithm maml --folder runs/mine
python experiments/train.py --resume --folder runs/mine        # go on after a stop
python experiments/train.py --task point-nav --seeds 5         # five independent runs in one program
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from metarl_jax.runs import cli, presets
from metarl_jax.runs.config import TrainConfig

DESCRIPTION = """Meta-train a policy, evaluate it on held-out tasks, and leave everything in one run folder.

Without --task and --preset, the settings are the preset reacher-goal on a CPU and cheetah-dir on a GPU or TPU;
with --task alone, the defaults below. `--preset NAME --help` shows a preset's values. Presets: {presets}."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TrainConfig):
    resume: bool = False
    """go on from the newest checkpoint of --folder, whose configuration then is the default"""
    override: bool = False
    """let --resume change what leaves earlier iterations as they are: --iterations, --checkpoint-every, --keep,
    --wandb, --devices, --on-nonfinite, --patience and the evaluation"""
    debug_nans: bool = False
    """if a number is not finite, find the operation that it comes from"""


# Of this start, not of the run.
OF_THE_START = ("resume", "override", "debug_nans")


def _defaults(argv: Sequence[str]) -> tuple[TrainConfig, str]:
    """What explicit options override, and a line that says where it comes from."""
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
        from metarl_jax.runs.config_file import read_config

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


def main(argv: Sequence[str]) -> None:
    if not {"-h", "--help"} & set(argv):
        cli.prepare_jax()
    with cli.user_errors():
        default, why = _defaults(argv)
    arguments = cli.parse(
        Arguments,
        argv,
        default=Arguments(**vars(default)),
        prog="train.py",
        description=DESCRIPTION.format(presets=", ".join(presets.PRESETS)),
    )
    from metarl_jax import algorithms
    from metarl_jax.runs.logging import require_wandb
    from metarl_jax.runs.run import train_run

    config = TrainConfig(**{name: value for name, value in vars(arguments).items() if name not in OF_THE_START})
    if arguments.override and not arguments.resume:
        raise cli.UserError("--override is about what --resume may change; give --resume too, or leave --override out")
    with cli.user_errors():
        if config.wandb is not None:
            require_wandb(config.wandb)
        config, dropped = presets.adopt(config, algorithms.options(config.algorithm))
    console = cli.console()
    console.print(f"settings: {why}", soft_wrap=True, highlight=False)
    if dropped:
        console.print(f"left out of the preset, since {config.algorithm} has no such options: {', '.join(dropped)}")
    train_run(config, console, **{name: getattr(arguments, name) for name in OF_THE_START})


if __name__ == "__main__":
    sys.exit(cli.run(main))
