"""What a process of a sweep does with its members: their arguments, logs and ends."""

import os
from types import SimpleNamespace

import pytest

from metarl_jax.commands import sweep_members
from metarl_jax.runs import together
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.config.file import write_config
from metarl_jax.runs.console.cli import RunStopped
from metarl_jax.runs.console.signals import Interrupted
from metarl_jax.runs.sweeps import jobs, plans
from tests.runs.sweep_runs import BASE, GRID, NAMES, report, write_run


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """The folder of a sweep with a fake of train.py: `did` has its calls, `ends` what becomes of a member."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "s"
    plan = plans.plan(BASE, plans.grid(GRID[1:]), [])
    plans.open_folder(plan, folder)
    (folder / "logs").mkdir()
    did, ends = [], {}

    def start(argv):
        did.append(argv)
        name = argv[argv.index("--folder") + 1].rpartition("/")[2]
        print("trains", name)
        os.write(2, b"a library in C\n")
        end = ends.get(name, 0)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(sweep_members.train, "start", start)
    return SimpleNamespace(folder=folder, plan=plan, did=did, ends=ends)


def lines(folder, name):
    return jobs.log_of(folder, name).read_text().splitlines()


def test_each_member_has_the_arguments_of_train_and_a_log(sweep, capfd):
    (sweep.folder / NAMES[1]).mkdir()
    (sweep.folder / NAMES[1] / "config.json").touch()
    assert sweep_members.main([str(sweep.folder), "file", "1", *NAMES[:2]]) == 0
    expected = [[*sweep.plan.arguments(name, sweep.folder), "--lock", "file"] for name in NAMES[:2]]
    assert sweep.did == [expected[0], [*expected[1], "--resume"]]
    for name in NAMES[:2]:
        header, *output, footer = lines(sweep.folder, name)
        assert header.startswith("=== ")
        assert f" metarl-train {BASE[0]} " in header
        assert output == [f"trains {name}", "a library in C"]
        assert footer.startswith("--- ")
    print("ours again")
    assert capfd.readouterr().out == "ours again\n"


def test_a_member_that_fails_stops_no_other_and_a_signal_all(sweep):
    sweep.ends |= {NAMES[0]: RuntimeError("INTERNAL: a fault"), NAMES[1]: 1, NAMES[2]: 143}
    assert sweep_members.main([str(sweep.folder), "kernel", "1", *NAMES]) == 143
    assert len(sweep.did) == 3
    assert jobs.last_words(jobs.log_of(sweep.folder, NAMES[0])) == "RuntimeError: INTERNAL: a fault"
    assert not jobs.log_of(sweep.folder, NAMES[3]).exists()


def test_what_was_finished_before_it_was_queued_again_is_left_alone(sweep):
    write_run(sweep.folder / NAMES[0], report([-3.0, -2.0, -1.0]))
    write_run(sweep.folder / NAMES[1])
    for name in NAMES[:2]:
        write_config(TrainConfig(iterations=3), sweep.folder / name)
    assert sweep_members.main([str(sweep.folder), "kernel", "1", *NAMES[:2]]) == 0
    assert [argv[-1] for argv in sweep.did] == ["--resume"], "the second alone"
    sweep.did.clear()
    (sweep.folder / NAMES[0] / "config.json").write_text("{")
    assert sweep_members.main([str(sweep.folder), "kernel", "1", NAMES[0]]) == 0
    assert len(sweep.did) == 1


def test_several_at_once_have_a_log_each(sweep, monkeypatch):
    def train_together(asked, lock):
        assert lock == "kernel"
        assert [config.folder for config, _ in asked] == [str(sweep.folder / name) for name in NAMES[:3]]
        for _, console in asked:
            console.print("trains")
        print("what one says of all")
        yield 1, RunStopped("stopped at iteration 1")
        yield 0, None
        raise Interrupted(15, "iteration 2 is saved")

    monkeypatch.setattr(together, "train_together", train_together)
    monkeypatch.setattr(together, "as_many_as_fit", lambda config, most: most)
    assert sweep_members.main([str(sweep.folder), "kernel", "3", *NAMES]) == 143
    assert sweep.did == [], "the last member was not begun"
    first, second, third = ([line[:4] for line in lines(sweep.folder, name)] for name in NAMES[:3])
    assert first == ["=== ", "trai", "what", "--- ", "erro"], "of all, and the end by a signal"
    assert second == ["=== ", "trai", "erro", "--- "]
    assert third == ["=== ", "trai"]
    assert jobs.last_words(jobs.log_of(sweep.folder, NAMES[1])) == "stopped at iteration 1"


def test_a_member_whose_folder_is_damaged_keeps_no_other_from_being_trained_at_once(sweep, monkeypatch):
    (sweep.folder / NAMES[0]).mkdir()
    (sweep.folder / NAMES[0] / "config.json").write_text("{")
    trained = []

    def train_together(asked, lock):
        trained.extend(config.folder for config, _ in asked)
        return enumerate([None] * len(asked))

    monkeypatch.setattr(together, "train_together", train_together)
    members = sweep_members.Members(sweep.folder, "kernel")
    assert members.several(NAMES[:3]) == 0
    assert trained == [str(sweep.folder / name) for name in NAMES[1:3]]
    first, second = ([line[:4] for line in lines(sweep.folder, name)] for name in NAMES[:2])
    assert (first, second) == (["=== ", "erro", "--- "], ["=== ", "--- "])
    assert "config.json is not JSON" in jobs.last_words(jobs.log_of(sweep.folder, NAMES[0]))
    assert members.several(NAMES[:1]) == 1
    assert len(trained) == 2


def test_an_error_of_all_is_in_the_log_of_each_and_the_next_are_trained(sweep, monkeypatch):
    batches = []

    def train_together(asked, lock):
        batches.append(len(asked))
        yield 1, None
        raise RuntimeError("INTERNAL: a fault")

    monkeypatch.setattr(together, "train_together", train_together)
    monkeypatch.setattr(together, "as_many_as_fit", lambda config, most: 3)
    assert sweep_members.main([str(sweep.folder), "kernel", "3", *NAMES]) == 0
    assert (batches, len(sweep.did)) == ([3], 1), "the last member alone"
    words = [jobs.last_words(jobs.log_of(sweep.folder, name)) for name in NAMES[:3]]
    assert words[0] == "RuntimeError: INTERNAL: a fault"
    assert words[2] == f"it ended with others; {jobs.log_of(sweep.folder, NAMES[0])} says why"
    assert all(lines(sweep.folder, name)[-1].startswith("--- ") for name in NAMES[:3])


def test_members_that_memory_does_not_hold_at_once_are_trained_by_half_as_many(sweep, monkeypatch):
    batches = []

    def train_together(asked, lock):
        batches.append([config.folder for config, _ in asked])
        if len(asked) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3.14GiB.")
        yield from enumerate([None] * len(asked))

    monkeypatch.setattr(together, "train_together", train_together)
    monkeypatch.setattr(together, "as_many_as_fit", lambda config, most: most)
    assert sweep_members.main([str(sweep.folder), "kernel", "4", *NAMES]) == 0
    folders = [str(sweep.folder / name) for name in NAMES]
    assert batches == [folders, folders[:2], folders[2:]]
    for name in NAMES:
        assert any("memory does not hold 4 members at once" in line for line in lines(sweep.folder, name))
        assert jobs.last_words(jobs.log_of(sweep.folder, name)) == ""


def test_a_program_that_memory_does_not_hold_at_all_is_an_error(sweep, monkeypatch):
    def train_together(asked, lock):
        raise MemoryError("Unable to allocate 3.14 GiB")

    seen = []
    monkeypatch.setattr(together, "train_together", train_together)
    monkeypatch.setattr(together, "as_many_as_fit", lambda config, most: most)
    monkeypatch.setattr(sweep_members.Members, "one", lambda self, name: seen.append(name) or 2)
    assert sweep_members.main([str(sweep.folder), "kernel", "4", *NAMES]) == 2
    assert seen == [*NAMES]


@pytest.mark.parametrize(
    ("backend", "asked", "most"), [("cpu", "0", 1), ("gpu", "0", 4), ("gpu", "1", 1), ("cpu", "3", 3)]
)
def test_at_once_on_an_accelerator_one_after_the_other_on_a_cpu(sweep, monkeypatch, backend, asked, most):
    import jax

    seen, prepared = [], []
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(sweep_members.cli, "prepare_jax", prepared.append)
    monkeypatch.setattr(together, "as_many_as_fit", lambda config, most: most)
    monkeypatch.setattr(sweep_members.Members, "one", lambda self, name: seen.append(1) or 0)
    monkeypatch.setattr(sweep_members.Members, "several", lambda self, names: seen.append(len(names)) or 0)
    assert sweep_members.main([str(sweep.folder), "kernel", asked, *NAMES]) == 0
    assert prepared == ["gaussian-bandit"] * (asked != "1"), "XLA reads its flags once"
    assert seen[0] == most
    assert sum(seen) == 4
