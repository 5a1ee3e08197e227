"""Measures the library on an accelerator in a limited time.

On a machine with a GPU, with any sections, programs and limits that fit into the available time:

    python benchmarks/accelerator.py --out results/a --seconds 500 --sections environment programs precision tests
    python benchmarks/accelerator.py --out results/b --seconds 300 --sections train

A test on a CPU, with all sizes divided by 20:

    python benchmarks/accelerator.py --out rehearsal --scale 0.05 --programs "promp point-nav" "bare cheetah spring 800"

Programs are compiled in parallel processes while the checks of precision and the tests run; then each is timed alone.
Each result is immediately appended to OUT/accelerator.jsonl, so nothing is lost if the machine is taken away. Each
section has a time limit.

On a machine without network, `bash benchmarks/bundle.sh` prepares what a bare GPU image lacks; see there.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import accelerator_farm as farm
from benchmarks import accelerator_sections as sections
from benchmarks.accelerator_programs import GROUPS, PROGRAMS

BEGAN = float(os.environ.setdefault("ACCELERATOR_BEGAN", str(time.time())))
SECTIONS = ("environment", "train", "programs", "precision", "tests")


class Report:
    """Appends JSON lines, so that a killed process loses at most the current line."""

    def __init__(self, folder: Path, section: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.section = folder, section

    def __call__(self, what: str, **figures: Any) -> None:
        line = {"second": round(time.time() - BEGAN, 1), "section": self.section, "what": what} | figures
        with (self.folder / "accelerator.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
        print(f"[{line['second']:6.1f} s] {self.section}: {what} {shown}"[:400], flush=True)


def started(a: argparse.Namespace, section: str) -> subprocess.Popen[bytes]:
    """Starts a section in a separate process group, which shares the device's memory."""
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--only", section]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def ended(process: subprocess.Popen[bytes], seconds: float) -> int | str:
    """Exit status of a section's process; it and its children are stopped when the time is up."""
    try:
        return process.wait(max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):  # leftover children could disturb the next section
            os.killpg(process.pid, signal.SIGKILL)
        return "time was up"


def compile_programs(report: Report, a: argparse.Namespace, folder: Path, seconds: float) -> None:
    began = time.time()
    for name, line in farm.farm(folder, a.programs, a.scale, a.workers, began + seconds):
        report("compiled", program=name, **farm.figures_of(line))
    report("all compiled", seconds=time.time() - began)


def time_programs(report: Report, a: argparse.Namespace, folder: Path, seconds: float) -> None:
    """Runs each group for at most half of the remaining time, since the first groups matter most."""
    import jax

    groups = [names for group in GROUPS if (names := [name for name in group if name in a.programs])]
    ends = time.time() + seconds
    for number, names in enumerate(groups):
        left = ends - time.time()
        share = left if number == len(groups) - 1 else left / 2
        for name, figures in farm.time_group(folder, names, a.rounds, share):
            report("ran", program=name, **figures)
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        if peak:
            report("memory", after=names[-1], peak_MiB=peak / 2**20)
    for name, spent in farm.trace(folder, a.trace, a.out / "traces"):
        report("traced", program=name, seconds=spent)


def run_one(a: argparse.Namespace, section: str) -> None:
    """Runs a section in this process."""
    report, folder = Report(a.out, section), Path(os.environ["ACCELERATOR_FOLDER"])
    if section == "compile":
        compile_programs(report, a, folder, a.compile_seconds)
    elif section == "time":
        time_programs(report, a, folder, a.time_seconds)
    elif section == "train":
        sections.train(report, folder / "run", a.train_seconds, a.train_options.split())
    elif section == "evaluate":
        sections.evaluate(report, folder / "run")
    else:
        sections.CHECKS[section](report, a.scale)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("accelerator"))
    parser.add_argument("--seconds", type=float, default=500.0, help="of all sections together")
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--trace", nargs="*", default=[], choices=list(PROGRAMS), help="one call by the profiler")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all sizes, below 1 for a rehearsal")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each program at most")
    parser.add_argument("--workers", type=int, default=min(9, os.cpu_count() or 1), help="compilations at a time")
    parser.add_argument("--compile-seconds", type=float, default=240.0)
    parser.add_argument("--time-seconds", type=float, default=150.0)
    parser.add_argument("--train-seconds", type=float, default=180.0)
    parser.add_argument("--train-options", default="", help="of train.py, in one string; default: --preset cheetah-dir")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    a.out = a.out.resolve()
    if a.only:
        return run_one(a, a.only)

    report, ends = Report(a.out, "campaign"), time.time() + a.seconds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ACCELERATOR_FOLDER"] = folder

        def finish(names: Sequence[str], seconds: float) -> None:
            until = min(time.time() + seconds, ends)
            processes = {name: started(a, name) for name in names}
            for name, process in processes.items():
                status = ended(process, until - time.time())
                report("section ended", which=name, status=status)

        if "environment" in a.sections:
            finish(["environment"], 60)
        # Timings run alone; compilation, evaluation and checks share the processors.
        together = [name for name in ("precision", "tests") if name in a.sections]
        if "train" in a.sections:
            finish(["train"], a.train_seconds + 20)
            together.append("evaluate")
        with_programs = "programs" in a.sections
        finish([*(["compile"] if with_programs else []), *together], a.compile_seconds + 5)
        if with_programs:
            finish(["time"], a.time_seconds + 15)
    report("done")


if __name__ == "__main__":
    main(sys.argv[1:])
