"""Mutation testing: single faults in the library, each of which the default tests must detect.

python benchmarks/mutants.py --list                      # all faults, and the tests that must detect them
python benchmarks/mutants.py --only tasks "the clip"     # faults with one of these in their name or file
python benchmarks/mutants.py --output benchmarks/results/mutants.json

In a copy of the tracked files, one text in one file is replaced, the tests listed with it run (none of them marked
slow or thorough), and the text is restored. A fault is detected if a test fails or the test process crashes; failing
imports and missing tests do not count. The exit status is 1 if a fault was not detected. Before that, all listed tests
must pass without a fault. More than an hour on one core.
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
"""pytest's exit status if some tests failed"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    only: tuple[str, ...] = ()
    """only faults with one of these in their name or file"""
    list: bool = False
    """only list the faults and their tests"""
    trust: bool = False
    """skip the initial run without a fault"""
    output: Path | None = None
    """JSON output file"""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Replacement of one text in one file of the library."""

    name: str
    """description of the fault"""
    file: str
    """path in the library's folder"""
    old: str
    """text that occurs exactly once in the file"""
    new: str
    tests: tuple[str, ...]
    """files or tests, of which at least one must fail"""

    def put_into(self, root: Path) -> str:
        """Applies the fault to a copy of the project; returns the file's original text.

        Raises:
            ValueError: the text to replace does not occur exactly once.
        """
        path = root / "metarl_jax" / self.file
        before = path.read_text()
        if before.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is in {self.file} {before.count(self.old)} times")
        path.write_text(before.replace(self.old, self.new))
        return before


def faults() -> list[Fault]:
    """The faults of mutants.toml."""
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
            noticed = status == FAILED or status < 0  # killed by a signal
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
