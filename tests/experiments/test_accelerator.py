"""The campaign on an accelerator, as far as a CPU can try it: programs handed over, time limits, the report."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import accelerator, accelerator_farm, accelerator_report
from benchmarks.accelerator_programs import GROUPS, PROGRAMS

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_program_is_timed_in_one_group():
    assert sorted(name for group in GROUPS for name in group) == sorted(PROGRAMS)


NAME = "promp point-nav"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder with the executable of one program, and what its compilation said."""
    folder = tmp_path_factory.mktemp("executables")
    # In a process without the tests' cache: an executable that JAX takes from there cannot be handed over on a CPU.
    code = "import json, pathlib, sys; from benchmarks.accelerator_farm import compile_to; "
    code += f"print(json.dumps(compile_to(pathlib.Path(sys.argv[1]), {NAME!r}, 0.05)))"
    clean = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    return folder, accelerator_farm.figures_of(done.stdout.splitlines()[-1])


def test_a_program_is_compiled_handed_over_and_timed(compiled):
    folder, figures = compiled
    assert figures["compile_seconds"] > 0
    said = dict(accelerator_farm.time_group(folder, [NAME, "rl2 point-nav"], rounds=2, seconds=60))
    # 2 tasks × 2 stages × 2 episodes × 5 steps; and what nobody compiled is not there.
    assert list(said) == [NAME]
    assert said[NAME]["steps"] == 40
    assert said[NAME]["low"] <= said[NAME]["seconds"] <= said[NAME]["high"]
    assert said[NAME]["steps_per_second"] == pytest.approx(40 / said[NAME]["seconds"])


def test_the_same_program_has_the_same_bits_in_every_call(compiled):
    folder, _ = compiled
    first, again = (dict(accelerator_farm.time_group(folder, [NAME], rounds=0, seconds=0))[NAME] for _ in range(2))
    assert first["repeats_itself"]
    assert first["bits"] == again["bits"]


def test_a_call_is_traced(compiled, tmp_path):
    folder, _ = compiled
    ((name, seconds),) = accelerator_farm.trace(folder, [NAME, "rl2 point-nav"], tmp_path)
    assert name == NAME
    assert seconds > 0
    (written,) = (tmp_path / "promp-point-nav").rglob("*.xplane.pb")
    assert written.stat().st_size > 1000


def test_a_process_that_fails_is_told_by_its_last_line():
    assert accelerator_farm.figures_of('{"trace_seconds": 1.5}') == {"trace_seconds": 1.5}
    assert accelerator_farm.figures_of("ValueError: no") == {"failed": "ValueError: no"}


def test_when_its_time_is_up_a_section_takes_its_children_with_it():
    """A child that ignores SIGTERM, as a training run that saves a checkpoint, would disturb what is timed next."""
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid); p.wait()"
    section = subprocess.Popen(
        [sys.executable, "-u", "-c", parent], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert section.stdout is not None
    said = {section.stdout.readline().strip(), section.stdout.readline().strip()}
    (pid,) = said - {"up"}
    assert accelerator.ended(section, 0.1) == "time was up"
    for _ in range(100):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
            return  # dead, and not yet collected by whoever adopted it
        time.sleep(0.05)
    os.kill(int(pid), signal.SIGKILL)
    pytest.fail("the child outlived its section")


def test_a_section_that_ends_in_time_keeps_its_status():
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], start_new_session=True)
    assert accelerator.ended(process, 30) == 3


def test_the_report_takes_the_first_run_of_a_batch_and_sorts_them():
    measured = {
        (1, "bare ant spring 8192"): {"steps_per_second": 5.0},
        (1, "bare ant spring 800"): {"steps_per_second": 2.0},
        (2, "bare ant spring 800"): {"steps_per_second": 9.0},
        (2, "promp cheetah"): {"steps_per_second": 1.0},
    }
    assert accelerator_report.by_batch(measured) == {"ant, spring": [(800, 2.0), (8192, 5.0)]}


def test_the_committed_results_make_a_picture(tmp_path):
    accelerator_report.draw(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_what_a_bare_image_lacks_is_pinned():
    """The bundle takes its versions from the constraints file, so a package that is not in there would end it."""
    script = (ROOT / "benchmarks" / "bundle.sh").read_text()
    packages = script[script.index('packages="') + 10 :].partition('"')[0].split()
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(packages) > 10
    assert [name for name in packages if not any(pin.startswith(f"{name}==") for pin in pins)] == []
