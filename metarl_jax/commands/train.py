"""The command line of experiments/train.py and metarl-train."""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import sys
from collections.abc import Sequence

from metarl_jax.runs.config import arguments, presets
from metarl_jax.runs.console import cli, startup

DESCRIPTION = """Meta-train a policy and evaluate it on held-out tasks; all results are in one run folder.

Without --task and --preset, the settings are the preset cheetah-dir-cpu on a CPU and cheetah-dir on a GPU or TPU;
with --task alone, the defaults below. `--preset NAME --help` shows a preset's values. Presets: {presets}."""


def main(argv: Sequence[str]) -> None:
    """Runs the script with these arguments.

    Raises:
        UserError: they do not parse, or a value is not allowed.
    """
    if not {"-h", "--help"} & set(argv):
        cli.prepare_jax(arguments.task(argv))
        _join(argv)
    cli.import_modules()  # for a help text too, which then has their options
    parsed = arguments.parse(
        argv, prog=cli.program("train"), description=DESCRIPTION.format(presets=", ".join(presets.PRESETS))
    )
    with startup.at_once():
        from metarl_jax.runs.cluster.distributed import is_writer
        from metarl_jax.runs.console import talk
        from metarl_jax.runs.run import train_run

    console = cli.console(quiet=not is_writer())
    talk.line(console, f"settings: {parsed.why}")
    if parsed.dropped:
        algorithm = parsed.config.algorithm
        dropped = ", ".join(parsed.dropped)
        talk.line(console, f"left out of the preset, since {algorithm} or its policy has no such options: {dropped}")
    train_run(parsed.config, console, **vars(parsed.start))


def _join(argv: Sequence[str]) -> None:
    """Joins the other processes of the job, if any; must precede any other use of JAX."""
    job = arguments.job(argv)
    if not job.alone:
        from metarl_jax.runs.cluster import distributed

        with cli.user_errors():
            distributed.start(job.coordinator, job.num_processes, job.process_id, job.distributed)


def start(argv: Sequence[str] | None = None) -> int:
    """Runs the script with these arguments, or those of the process; returns the exit status."""
    try:
        single_process = arguments.job(sys.argv[1:] if argv is None else argv).alone
    except cli.UserError:  # `main` reports it
        single_process = True
    if single_process:
        return cli.run(main, argv)
    from metarl_jax.runs.cluster import distributed

    return distributed.run(lambda: cli.run(main, argv))


if __name__ == "__main__":
    sys.exit(start())
