"""benchmarks/hostile.py has a table of distinct cases that each say what must hold, and its judge can fail."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import hostile_signals, hostile_tools
from benchmarks.hostile_cases import CASES, KINDS, must_hold
from benchmarks.hostile_tools import KEEPS, Case, Place, judge
from metarl_jax.runs.sweeps import plans

ROOT = Path(__file__).parents[2]
KIND = {"names", "options", "links", "special files", "configurations", "checkpoints", "owners", "quotas", "clocks"}
KIND |= {"terminals", "locales", "signals", "sweeps"}


def test_the_table_is_long_and_every_row_says_what_must_hold():
    assert set(KINDS) == KIND
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 150
    for case in CASES:
        assert case.ends, case.name
        assert set(case.ends.values()) <= KEEPS.keys(), case.name
        assert case.name.isprintable(), "a table shows it"
        assert must_hold(case).startswith("status "), case.name


def test_a_list_and_a_help_text_answer_at_once():
    code = "import sys; sys.argv[1:] = ['--list']; from benchmarks import hostile; import tyro\n"
    code += "hostile.main(tyro.cli(hostile.Arguments)); assert not {'jax', 'orbax'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(CASES) + 1 + len(KEEPS)


class StubLab:
    """Knows one state: the iteration that a file of the run names."""

    def __init__(self, folder: Path):
        self._folder = folder

    def kept(self, run, promise):
        """As `benchmarks.fault_tools.Lab.kept`."""
        promise((run / "state").read_text() == "whole", "the checkpoint of iteration 8 is another")
        return 8

    def rows_before(self, _):
        """The table of an undisturbed run."""
        return b"rows\n"

    def go_on(self, run, _):
        """Resumed, it ends as the undisturbed run did."""
        return (True, (run / "state").read_text() == "whole")


CONFIG = '{"iterations": 8}'
FILES = {"state": "whole", "config.json": CONFIG, "metrics.csv": "rows\n", "evaluation.json": "{}"}
FINE = "print('all is well')"
SAY = "import sys; print({!r}, file=sys.stderr); "
# what the process does → (what it must keep, what the judge says of it)
VIOLATIONS = {
    "another status": ("import sys; sys.exit(3)", "unchanged", "status 3 instead of 0"),
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "unchanged", "status -9 instead of 0"),
    "a word at status 0": (SAY.format("yes") + FINE, "unchanged", "1 lines on stderr at status 0"),
    "two lines": (SAY.format("yes\nno") + "sys.exit(2)", "unchanged", "2 lines on stderr"),
    "a traceback on stdout": (f"print('Traceback (most recent call last):'); {FINE}", "unchanged", "a traceback"),
    "another line": (SAY.format("error: no") + "sys.exit(2)", "unchanged", "stderr does not say 'yes'"),
    "nothing shown": ("pass", "unchanged", "stdout does not show 'well'"),
    "a process left": (
        "import subprocess; subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL); " + FINE,
        "unchanged",
        "1 processes outlive it",
    ),
    "a stranger's file": (f"open('outside/mine', 'a').write('x'); {FINE}", "unchanged", "changed outside of the run"),
    "a file outside": (f"open('new', 'w'); {FINE}", "unchanged", "changed outside of the run: ['new']"),
    "a file of the run": (f"open('run/state', 'w'); {FINE}", "unchanged", "changed: ['state']"),
    "a mode": (f"import os; os.chmod('run/state', 0o600); {FINE}", "unchanged", "changed: ['state']"),
    "a link": (f"import os; os.symlink('/', 'run/link'); {FINE}", "unchanged", "changed: ['link']"),
    "a file but for pictures": (f"open('run/renders', 'w'); open('run/b', 'w'); {FINE}", "pictures", "changed: ['b']"),
    "a folder that is no start": (FINE, "unborn", "a folder that cannot be started in"),
    "another checkpoint": (f"open('run/state', 'w').write('x'); {FINE}", "sound", "is another"),
    "no checkpoint": (f"import os; os.remove('run/state'); {FINE}", "sound", "no checkpoint can be read"),
    "no evaluation": (f"import os; os.remove('run/evaluation.json'); {FINE}", "whole", "it was not evaluated"),
    "too early": (
        f"open('run/config.json', 'w').write('{CONFIG.replace('8', '9')}'); {FINE}",
        "whole",
        "ended at iteration 8",
    ),
    "other rows": (f"open('run/metrics.csv', 'a').write('x'); {FINE}", "whole", "metrics.csv is another"),
    "a sweep without members": (f"import os; os.remove('run/config.json'); {FINE}", "sweep", "there is no member"),
}  # fmt: skip
SOUND = {
    "nothing": (FINE, "unchanged"),
    "a picture": (f"open('run/renders', 'w'); {FINE}", "pictures"),
    "a whole run": (FINE, "whole"),
    "a sound run": (f"open('run/metrics.csv', 'a').write('x'); {FINE}", "sound"),
    "a line": (SAY.format("error: yes") + "sys.exit(2)", "unchanged"),
}


@pytest.fixture
def place(tmp_path):
    run = tmp_path / "place" / "run"
    run.mkdir(parents=True)
    (tmp_path / "place" / "outside").mkdir()
    for name, text in {
        "state": "whole",
        "config.json": CONFIG,
        "metrics.csv": "rows\n",
        "evaluation.json": "{}",
    }.items():
        (run / name).write_text(text)
    (tmp_path / "place" / "outside" / "mine").write_text("mine\n")
    return Place(tmp_path / "place", cast(Any, StubLab(run)))


def told(place, log, code, keeps, **more):
    status = 2 if "exit(2)" in code else 0
    case = Case(
        kind="names", name="a stub", command="python -c", words=(code,), ends={status: keeps}, says="yes", shows="well"
    )
    return judge(dataclasses.replace(case, **more), place, {"PATH": "/usr/bin:/bin"}, log)


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_every_rule_that_is_broken_is_told(place, tmp_path, violation):
    code, keeps, says = VIOLATIONS[violation]
    broken = told(place, tmp_path / "log", code, keeps)
    assert len(broken) == 1, broken
    assert says in broken[0]


@pytest.mark.parametrize("what", SOUND)
def test_what_keeps_every_rule_passes(place, tmp_path, what):
    code, keeps = SOUND[what]
    assert told(place, tmp_path / "log", code, keeps) == ()


def test_a_disturbance_that_never_came_and_a_resumption_that_differs_are_told(place, tmp_path):
    broken = told(place, tmp_path / "log", FINE, "sound", disturb=lambda run, place: False)
    assert broken == ("it ended before it was disturbed",)
    (place.run / "state").write_text("whole")
    spoilt = dataclasses.replace(place, lab=StubLab(place.run))
    spoilt.lab.go_on = lambda run, promise: (True, False)
    assert told(spoilt, tmp_path / "log", FINE, "sound", then=True) == (
        "resumed, it does not end as the undisturbed run",
    )


def test_a_process_that_hangs_is_ended(place, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.fault_runs.PATIENCE", 0.3)
    broken = told(place, tmp_path / "log", "import time; time.sleep(60)", "unchanged")
    assert any("status -9" in one for one in broken)


def sent(run, place):
    """SIGTERM, once it runs."""
    came = run.until(lambda: "all" in run.output)
    run.send(signal.SIGTERM)
    return came


def test_bash_gives_the_status_of_a_signal(place, tmp_path):
    code = "import time; print('all is well', flush=True); time.sleep(60)"
    assert told(place, tmp_path / "log", code, "unchanged", disturb=sent, ends={-signal.SIGTERM: "unchanged"}) == ()


def test_only_root_can_try_some(monkeypatch):
    monkeypatch.setattr(hostile_tools.os, "geteuid", lambda: 1000)
    case = next(case for case in CASES if case.root)
    assert hostile_tools.tried(case, cast(Any, StubLab(ROOT))) is None


def test_the_sweeps_that_it_writes_are_of_the_schema_of_today(tmp_path):
    (tmp_path / "sweep.json").write_text(hostile_signals.plan({"a": {"seed": 1}}))
    assert plans.load(tmp_path / "sweep.json").members == {"a": {"seed": 1}}
