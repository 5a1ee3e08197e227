"""Meta-trains a policy, evaluates it on held-out tasks, and leaves everything in one run folder.

python experiments/train.py                                    # a default that suits this machine
python experiments/train.py --preset point-nav-finn2017        # named settings
python experiments/train.py --task cheetah-vel --algorithm maml --folder runs/mine
python experiments/train.py --resume --folder runs/mine        # go on after a stop
"""

import sys
from collections.abc import Sequence

from metarl_jax.runs import arguments, cli, presets

DESCRIPTION = """Meta-train a policy, evaluate it on held-out tasks, and leave everything in one run folder.

Without --task and --preset, the settings are the preset reacher-goal on a CPU and cheetah-dir on a GPU or TPU;
with --task alone, the defaults below. `--preset NAME --help` shows a preset's values. Presets: {presets}."""


def main(argv: Sequence[str]) -> None:
    if not {"-h", "--help"} & set(argv):
        cli.prepare_jax()
    asked = arguments.parse(argv, prog="train.py", description=DESCRIPTION.format(presets=", ".join(presets.PRESETS)))
    from metarl_jax.runs.run import train_run

    console = cli.console()
    console.print(f"settings: {asked.why}", soft_wrap=True, highlight=False)
    if asked.dropped:
        algorithm = asked.config.algorithm
        console.print(f"left out of the preset, since {algorithm} has no such options: {', '.join(asked.dropped)}")
    train_run(asked.config, console, resume=asked.resume)


if __name__ == "__main__":
    sys.exit(cli.run(main))
