"""Faults put into the library one by one, each of which the default tests must notice.

python benchmarks/mutants.py --list                      # every fault, and the tests that are to notice it
python benchmarks/mutants.py --only tasks "the clip"     # faults with one of these in their name or file
python benchmarks/mutants.py --output benchmarks/results/mutants.json

A copy of the tracked files is made; in it one text of one file is replaced by another, the tests named beside it run,
none of which is marked slow, and the text is put back. A fault counts as noticed if a test fails, or if the tests'
process dies of it; that a file cannot be imported, or that no test was collected, does not count. The exit status is 1
if any was not noticed. First all tests that are named pass without a fault. More than an hour of one core.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import date
from pathlib import Path

import tyro

ROOT = Path(__file__).parents[1]
FAILED = 1
"""pytest's exit status where tests were run and some failed"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    only: tuple[str, ...] = ()
    """faults with one of these in their name or file, and no others"""
    list: bool = False
    """only show the faults, and what is to notice them"""
    trust: bool = False
    """do not try first whether the tests pass without a fault"""
    output: Path | None = None
    """where to write the outcomes as JSON"""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One text of a file of the library becomes another."""

    name: str
    """what is wrong then"""
    file: str
    """in the library's folder"""
    old: str
    """occurs there exactly once"""
    new: str
    tests: tuple[str, ...]
    """files or tests, of which at least one must fail"""

    def put_into(self, root: Path) -> str:
        """Puts the fault into a copy of the project, and returns the file's text as it was.

        Raises:
            ValueError: the text to be replaced is not there, or more than once.
        """
        path = root / "metarl_jax" / self.file
        before = path.read_text()
        if before.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is in {self.file} {before.count(self.old)} times")
        path.write_text(before.replace(self.old, self.new))
        return before


def faults() -> list[Fault]:
    """Those of mutants.toml."""
    groups = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["group"]
    return [Fault(**fault, tests=tuple(group["tests"])) for group in groups for fault in group["fault"]]


def _copy(root: Path) -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.split(b"\0")
    for name in filter(None, (name.decode() for name in names)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    for command in (["init", "--quiet"], ["add", "--all"]):  # some tests ask git what is tracked
        subprocess.run(["git", *command], cwd=root, check=True)


def run_tests(root: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """pytest's exit status in a copy of the project, and the first test that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--tb=no", "-rf"]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*command, *tests], cwd=root, env=environment, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    failed = [f"ended by signal {-done.returncode}"] if done.returncode < 0 else failed
    return done.returncode, (failed or done.stdout.splitlines()[-1:] or [done.stderr])[0]


def main(arguments: Arguments) -> int:
    chosen = [f for f in faults() if not arguments.only or any(part in f"{f.name} {f.file}" for part in arguments.only)]
    if not chosen:
        raise SystemExit(f"error: no fault has {' or '.join(map(repr, arguments.only))} in its name; --list shows all")
    if arguments.list:
        for fault in chosen:
            print(f"{fault.file}: {fault.name}: {' '.join(fault.tests)}")
        return 0
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder)
        _copy(root)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / ".cache"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
        if not arguments.trust:
            status, line = run_tests(root, tuple(dict.fromkeys(test for fault in chosen for test in fault.tests)))
            if status:
                raise SystemExit(f"error: the tests do not pass without a fault: {line}")
        for fault in chosen:
            began = time.monotonic()
            before = fault.put_into(root)
            status, line = run_tests(root, fault.tests)
            (root / "metarl_jax" / fault.file).write_text(before)
            noticed = status == FAILED or status < 0  # a signal's
            outcomes.append({"fault": fault.name, "file": fault.file, "noticed": noticed, "by": line})
            print(f"{fault.file}: {fault.name} ({time.monotonic() - began:.0f} s): ", end="")
            print(line if noticed else f"NOT NOTICED (status {status}): {line}", flush=True)
    missed = sum(not outcome["noticed"] for outcome in outcomes)
    print(f"{len(outcomes)} faults, {missed} not noticed")
    if arguments.output:
        told = {"date": str(date.today()), "python": sys.version.split()[0], "faults": outcomes}
        arguments.output.write_text(json.dumps(told, indent=1) + "\n")
        print(f"written to {arguments.output}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
