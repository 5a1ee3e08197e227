"""Fault injection in training runs: kills, signals, damaged files, full disks, NaNs.

python benchmarks/faults.py                                        # all faults, about five minutes; disks need root
python benchmarks/faults.py --only kill term
python benchmarks/faults.py --output benchmarks/results/faults.json

A small run of experiments/train.py without faults is the reference. Each fault hits another process with the same
training run, which is then resumed. Its final state (θ, optimizer state, iteration) must equal the reference's bit for
bit, and its metrics.csv byte for byte. A kill may only lose the work after the newest intact checkpoint, at most two
checkpoint intervals, which is then repeated. The exit status is 1 if anything else is lost, or if a message or an exit
status is wrong.
"""

import dataclasses
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import common

Fault = Literal["kill", "term", "damage", "disk", "read-only", "writers", "nan", "processes"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    only: tuple[Fault, ...] = ()
    """only these faults"""
    seed: int = 0
    """seed of the times at which processes are killed"""
    output: Path | None = None
    """JSON output file"""


def machine() -> str:
    """As `benchmarks.common.machine`, and whether the user may do anything."""
    return f"{common.machine()}, {'root' if os.geteuid() == 0 else 'not root'}"


def main(arguments: Arguments) -> int:
    from rich.console import Console
    from rich.table import Table

    # Not at the top: --help does not need JAX and orbax.
    from benchmarks import fault_cases, fault_numbers, fault_processes
    from benchmarks.fault_tools import BOUND, SETTINGS, Lab, Outcome
    from metarl_jax.runs.checkpoint.provenance import provenance
    from metarl_jax.runs.console import cli

    cli.prepare_jax()
    faults: dict[Fault, Callable[[Lab], Iterator[Outcome]]] = {
        "kill": fault_cases.kills,
        "term": fault_cases.terms,
        "damage": fault_cases.damages,
        "disk": fault_cases.disks,
        "read-only": fault_cases.read_only,
        "writers": fault_cases.writers,
        "nan": fault_numbers.nans,
        "processes": fault_processes.processes,
    }
    console, began = Console(width=None if sys.stdout.isatty() else 150), time.monotonic()
    console.print(f"{machine()}; {date.today()}; python experiments/train.py {shlex.join(SETTINGS)}", soft_wrap=True)
    table = Table("fault", "when", "lost", "θ equal", "metrics equal", title=f"bound: {BOUND} iterations")
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as workspace:
        lab = Lab(Path(workspace), arguments.seed)
        console.print(f"the reference is trained, in {lab.seconds:.1f} s")
        for name in arguments.only or faults:
            for outcome in faults[name](lab):
                outcomes.append(outcome)
                marks = [
                    {True: "yes", False: "[red]no[/]", None: ""}[equal] for equal in (outcome.theta, outcome.metrics)
                ]
                table.add_row(outcome.fault, outcome.when, outcome.lost, *marks)
                verdict = "ok" if outcome.passed else f"[red]failed[/]: {'; '.join(outcome.problems)}"
                console.print(f"{outcome.fault}, {outcome.when}: {verdict}", highlight=False, soft_wrap=True)
    console.print(table)
    failed = sum(not outcome.passed for outcome in outcomes)
    seconds = time.monotonic() - began
    console.print(f"{len(outcomes)} outcomes, {failed} failed, in {seconds:.0f} s")
    if arguments.output:
        figures = {
            "command": shlex.join(["python", "benchmarks/faults.py", *sys.argv[1:]]),
            "machine": machine(),
            "date": str(date.today()),
            "seconds": round(seconds),
            "provenance": provenance(),
            "settings": shlex.join(SETTINGS),
            "bound": BOUND,
            "failed": failed,
            "outcomes": [dataclasses.asdict(outcome) for outcome in outcomes],
        }
        common.write(figures, arguments.output)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
