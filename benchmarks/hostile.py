"""Adverse conditions for runs, each tested on a real process: names, links, special files, damaged and swapped
configurations and checkpoints, owners, quotas, clocks, terminals, locales, signals in all phases, sweeps.

python benchmarks/hostile.py --list                                # all cases and their requirements
python benchmarks/hostile.py --only names links                    # kinds of cases; all take half an hour on one core
python benchmarks/hostile.py --case "a run goes on in 'lr[0.1]'"
python benchmarks/hostile.py --output benchmarks/results/hostile.json

A small run of experiments/train.py without faults is the reference. Each case has a new folder with a copy of it, after
some iterations, and a file of another user; a process runs there under the conditions of the case. It must end in time
with the correct status, at most one line on stderr, no traceback and no remaining child processes. Nothing outside the
run may change, and the run must meet the requirements of the case, such as a checkpoint that equals the reference's bit
for bit. The exit status is 1 if a requirement is violated. Some cases need root, and some of those a Python that other
users may run; cases that cannot run are skipped and reported. With --output, results replace those of the same kind.
"""

import concurrent.futures
import dataclasses
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import tyro

from benchmarks import common


@dataclasses.dataclass(frozen=True)
class Arguments:
    only: tuple[str, ...] = ()
    """only these kinds"""
    case: tuple[str, ...] = ()
    """only cases with these texts in their names"""
    list: bool = False
    """only list the cases and their requirements"""
    jobs: int = 1
    """number of parallel cases"""
    output: Path | None = None
    """JSON output file, with results by kind"""


def _chosen(arguments: Arguments) -> list[Any]:
    from benchmarks.hostile_cases import CASES, KINDS

    if unknown := [kind for kind in arguments.only if kind not in KINDS]:
        raise SystemExit(f"error: --only is {unknown[0]!r}; choose from {', '.join(KINDS)}")
    found = [case for case in CASES if not arguments.only or case.kind in arguments.only]
    found = [case for case in found if not arguments.case or any(part in case.name for part in arguments.case)]
    if not found:
        raise SystemExit(f"error: no case has {' or '.join(arguments.case)!r} in its name; --list shows all")
    return found


def main(arguments: Arguments) -> int:
    from benchmarks.hostile_cases import must_hold
    from benchmarks.hostile_tools import KEEPS, SETTINGS, tried

    cases = _chosen(arguments)
    if arguments.list:
        for case in cases:
            print(f"{case.kind}: {case.name}: {must_hold(case)}")
        print("".join(f"\n{name}: {meaning}" for name, meaning in KEEPS.items()))
        return 0
    from benchmarks.fault_tools import Lab  # imports JAX and orbax, which --help and --list do not need
    from benchmarks.faults import machine
    from metarl_jax.runs.checkpoint.provenance import provenance
    from metarl_jax.runs.console import cli

    cli.prepare_jax()
    # Background jobs of a shell ignore signals, which child processes inherit; they do not inherit handlers.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, lambda *_: None)
    print(f"{machine()}; {date.today()}; python experiments/train.py {shlex.join(SETTINGS)}")
    outcomes: dict[str, list[dict[str, Any]]] = {}
    began, seconds = time.monotonic(), dict.fromkeys((case.kind for case in cases), 0.0)

    def timed(case: Any) -> tuple[tuple[str, ...] | None, float]:
        start = time.monotonic()
        try:
            return tried(case, lab), time.monotonic() - start
        except Exception as error:  # one case must not stop the others
            return (f"it could not be tried: {type(error).__name__}: {error}",), time.monotonic() - start

    with (
        tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as workspace,
        concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool,
    ):
        lab = Lab(Path(workspace), 0, SETTINGS)
        if not os.geteuid():  # so that other users can access its content
            for path in [Path(workspace), *lab.workspace.rglob("*")]:
                path.chmod(path.stat().st_mode | 0o755)
        print(f"the reference is trained, in {lab.seconds:.1f} s", flush=True)
        for case, (broken, took) in zip(cases, pool.map(timed, cases), strict=True):
            seconds[case.kind] += took
            outcomes.setdefault(case.kind, []).append(
                {"case": case.name, "must hold": must_hold(case), "skipped": broken is None, "problems": broken or ()}
            )
            left_out = "needs root, or a Python that others may run: left out"
            verdict = left_out if broken is None else "; ".join(broken) or "ok"
            print(f"{case.kind}: {case.name} ({took:.1f} s): {verdict}".encode("utf-8", "replace").decode(), flush=True)
    every = [outcome for kind in outcomes.values() for outcome in kind]
    failed, skipped = (sum(bool(outcome[name]) for outcome in every) for name in ("problems", "skipped"))
    print(f"{len(every)} cases, {failed} failed, {skipped} left out, in {time.monotonic() - began:.0f} s")
    if arguments.output:
        _write(arguments.output, outcomes, seconds, machine(), provenance())
    return 1 if failed else 0


def _write(path: Path, outcomes: dict[str, Any], seconds: dict[str, float], machine: str, provenance: Any) -> None:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for kind, cases in outcomes.items():
        found[kind] = {
            "command": shlex.join(["python", "benchmarks/hostile.py", *sys.argv[1:]]),
            "machine": machine,
            "date": str(date.today()),
            "seconds": round(seconds[kind]),
            "provenance": provenance,
            "failed": sum(bool(case["problems"]) for case in cases),
            "skipped": sum(case["skipped"] for case in cases),
            "cases": cases,
        }
    common.write(found, path)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
