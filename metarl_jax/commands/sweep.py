"""The command line of experiments/sweep.py and metarl-sweep."""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from metarl_jax import checks
from metarl_jax.runs.config import arguments as train_arguments
from metarl_jax.runs.console import cli
from metarl_jax.runs.sweeps import plans as sweeps

DESCRIPTION = """Train one run per combination of options of train.py, and show all results in one table.

Arguments after `--` are arguments of train.py shared by all members; they must include --task or --preset. All
combinations are checked before the first starts. To continue a stopped sweep, run it again with the same arguments:
finished members are kept, the others resume from their checkpoints. Members that differ in numbers only, such as rates
and weights, are compiled once: a process trains them one after the other, or at once. The folder contains a run folder
per member, logs/ with the members' output, results.csv and, if numbers were varied, results.png."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of sweep.py."""

    folder: Path
    """folder of the sweep"""
    grid: tuple[str, ...] = ()
    """options to combine exhaustively, as NAME=VALUE,VALUE,...; quote values of several words: "hidden=64 64,32"
    """
    random: tuple[str, ...] = ()
    """options to sample, as NAME=LOW:HIGH, NAME=log:LOW:HIGH, NAME=int:LOW:HIGH or NAME=VALUE,VALUE,..."""
    samples: int | None = None
    """number of samples of --random (None: 10)"""
    sweep_seed: int = 0
    """seed of --random"""
    seeds: int = 1
    """seeds per member, trained together in one program"""
    jobs: int | None = None
    """maximum number of processes (None: one on this machine, one per member on a cluster)"""
    at_once: int | None = None
    """members that a process trains at once by vmap, if they differ in numbers only (None: on a GPU or TPU 8, on a CPU
    one, since there one after the other is as fast)"""
    cluster: Literal["local", "slurm"] = "local"
    """processes on this machine, or Slurm jobs"""
    lock: Literal["kernel", "file"] = "kernel"
    """lock of the sweep and of its members, as in train.py"""
    slurm: tuple[str, ...] = ()
    """parameters of Slurm jobs, as NAME=VALUE: time (minutes, required), partition, gpus_per_node, mem, ..."""


@contextlib.contextmanager
def _stop_signals(say: Any) -> Iterator[list[int]]:
    """A list of received SIGINT, SIGTERM and SIGHUP; a second signal raises instead of waiting for the members."""
    received: list[int] = []

    def receive(signum: int, _: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)
        say(f"{signal.Signals(signum).name}: stopping the members, which write a checkpoint first")

    from metarl_jax.runs.console.signals import installed

    with installed(receive):
        yield received


def _planned(arguments: Arguments, base: Sequence[str]) -> sweeps.Plan:
    if arguments.samples is not None and not arguments.random:
        raise ValueError("--samples counts draws of --random, and there is no --random")
    samples = 10 if arguments.samples is None else arguments.samples
    drawn = sweeps.draws(arguments.random, samples, arguments.sweep_seed) if arguments.random else []
    return sweeps.plan(base, sweeps.grid(arguments.grid) if arguments.grid else [], drawn, arguments.seeds)


def _jobs(arguments: Arguments, members: int) -> int:
    """Members at a time."""
    if arguments.slurm and arguments.cluster != "slurm":
        raise ValueError("--slurm sets parameters of Slurm jobs; add --cluster slurm")
    if arguments.at_once is not None:
        checks.integer("at_once", arguments.at_once)
    if arguments.jobs is None:
        return 1 if arguments.cluster == "local" else members
    return checks.integer("jobs", arguments.jobs)


def main(argv: Sequence[str]) -> None:
    """Runs the script with these arguments.

    Raises:
        UserError: they do not parse, or a value is not allowed.
    """
    sweep_argv, base = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    arguments = cli.parse(Arguments, sweep_argv, prog=cli.program("sweep"), description=DESCRIPTION)
    from metarl_jax.runs.console import talk
    from metarl_jax.runs.storage.folder import only_writer
    from metarl_jax.runs.sweeps import drive as driving
    from metarl_jax.runs.sweeps import jobs as sweep_jobs
    from metarl_jax.runs.sweeps import results as sweep_results

    cli.prepare_jax()
    cli.import_modules()  # first, since their algorithms may have options that are swept
    with cli.user_errors():
        plan = _planned(arguments, base)
        jobs = _jobs(arguments, len(plan.members))
        slurm = sweep_jobs.slurm_parameters(arguments.slurm) if arguments.cluster == "slurm" else None
    import jax

    jax.config.update("jax_platforms", "cpu")  # the checks need no accelerator; its memory is for the members
    console, folder = cli.console(), arguments.folder

    def say(line: str) -> None:
        talk.line(console, line)

    with talk.status(console, f"checking {len(plan.members)} combinations"):
        configs = sweeps.check(plan, folder)
    with cli.user_errors():
        existed = sweeps.open_folder(plan, folder)

    def finished(name: str) -> bool:
        return sweep_results.report(folder / name, configs[name]) is not None

    with contextlib.ExitStack() as stack:
        with cli.user_errors():
            stack.enter_context(only_writer(folder, arguments.lock))
        stopped = stack.enter_context(_stop_signals(say))
        todo = [name for name in plan.members if not finished(name)]
        before = f", {len(plan.members) - len(todo)} finished before" if existed else ""
        say(f"sweep in {folder}: {len(plan.members)} members{before}; what each prints goes to {folder / 'logs'}")
        failures = {}
        if todo:
            with cli.user_errors():
                engine = sweep_jobs.Engine(folder, _command(arguments), slurm=slurm, sharing=jobs > 1)
            several = jobs if train_arguments.job(base).alone else len(todo)  # processes of one member meet only once
            failures = driving.drive(
                driving.groups(configs, todo, several),
                engine.start,
                jobs=jobs,
                finished=finished,
                say=say,
                stopping=lambda: bool(stopped),
            )
        results = sweep_results.collect(plan, folder, configs, failures)
        drawn = _write(results, plan, folder, console)
    left = len(plan.members) - drawn
    if left and stopped:
        raise cli.RunStopped(f"stopped with {left} of {len(results)} members to go; start the same command to go on")
    if left:
        raise cli.RunStopped(f"{left} of {len(results)} members failed; start the same command to try them again")


def _command(arguments: Arguments) -> list[str]:
    """Trains the members whose names are appended."""
    module = "metarl_jax.commands.sweep_members"
    settings = [str(arguments.folder), arguments.lock, str(arguments.at_once or 0)]
    return [sys.executable, "-P", "-m", module, *settings]  # -P: not from the working folder


def _write(results: list[Any], plan: sweeps.Plan, folder: Path, console: Any) -> int:
    """Writes and prints the results; returns the number of members that have one."""
    from metarl_jax.runs.console import talk
    from metarl_jax.runs.pictures import plots
    from metarl_jax.runs.sweeps import results as sweep_results

    sweep_results.write(results, folder / "results.csv", plan.seeds)
    console.print(sweep_results.table(results, str(folder), plan.seeds))
    talk.line(console, f"  {folder / 'results.csv'}  the same with every digit")
    drawable = [(r.options, r.after.mean, r.after.error) for r in results if r.after]
    error = f"{plan.seeds} seeds" if plan.seeds > 1 else "held-out tasks"
    if plots.sweep(drawable, folder / "results.png", title=str(folder), error=error):
        talk.line(console, f"  {folder / 'results.png'}  return after adaptation against what was varied")
    return len(drawable)


def start() -> int:
    """Runs the script with the arguments of the process; returns the exit status."""
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(start())
