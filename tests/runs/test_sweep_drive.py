"""Which members share a process, and how the processes of a sweep are driven."""

from pathlib import Path

from metarl_jax.runs.sweeps import drive as driving
from metarl_jax.runs.sweeps import plans as sweeps
from tests.runs.sweep_runs import BASE, Fake


def drive(names, jobs, start, **options):
    said = []
    options = {"finished": lambda name: name == "good", "stopping": lambda: False} | options
    return driving.drive([[name] for name in names], start, jobs=jobs, say=said.append, interval=0.0, **options), said


def test_a_failure_stops_no_other_and_no_more_run_than_asked_for():
    running, most = [], []

    class Counted(Fake):
        def done(self):
            ended = super().done()
            most.append(len(running))
            if ended:
                running.remove(self)
            return ended

    def start(names):
        (name,) = names
        if name == "refused":
            raise OSError("invalid partition")
        running.append(Counted(f"{name} ended", patience=3))
        return running[-1]

    failures, said = drive(["a", "refused", "good", "b", "c"], 2, start)
    assert failures == {"refused": "invalid partition", "a": "a ended", "b": "b ended", "c": "c ended"}
    assert max(most) == 2
    assert sum(line.startswith("started") for line in said) == 4
    assert "0 to go" in said[-1]


def test_stopping_starts_no_more_and_waits_for_those_that_run():
    jobs, looks = {}, []

    def stopping():
        looks.append(None)
        return len(looks) > 8

    def start(names):
        jobs[names[0]] = Fake(patience=100)
        return jobs[names[0]]

    failures, said = drive(["a", "b", "c"], 2, start, stopping=stopping)
    assert failures == {}
    assert jobs.keys() == {"a", "b"}
    assert all(job.stopped for job in jobs.values())
    assert [line[:10] for line in said[-2:]] == ["stopped  a", "stopped  b"]


def test_one_of_a_process_fails_and_the_others_are_told_as_they_end():
    """A log's last line says that its member has ended. Another process begins with what a dead one has not begun."""
    good, started = {"a", "c"}, []

    def start(names):
        started.append(list(names))
        if len(started) == 1:
            return Fake("died", patience=3, begun=["a", "b", "c", "killed"], ended=["a", "b", "c"])
        return Fake(patience=1, begun=names)

    said = []
    failures = driving.drive(
        [["a", "b", "c", "killed", "d"]],
        start,
        jobs=1,
        finished=lambda name: name in good or len(started) == 2,
        say=said.append,
        stopping=lambda: False,
        interval=0.0,
    )
    assert started == [["a", "b", "c", "killed", "d"], ["d"]]
    assert failures == {"b": "died", "killed": "died"}
    words = ["started", "finished a", "failed b", "finished c", "failed killed", "started d,", "finished d"]
    assert [" ".join(line.split()[: len(word.split())]) for line, word in zip(said, words, strict=True)] == words
    assert "0 to go" in said[-1]


def test_members_share_a_process_if_they_share_their_programs():
    def groups(specs, jobs=1, base=BASE):
        plan = sweeps.plan(base, sweeps.grid(specs), [])
        return [len(group) for group in driving.groups(sweeps.check(plan, Path("s")), list(plan.members), jobs)]

    numbers = ["inner_lr=0.1,0.2,0.3", "discount=0.9,0.8"]
    assert groups(numbers) == [6]
    assert groups(numbers, jobs=4) == [2, 2, 1, 1]
    assert groups(numbers, jobs=9) == [1] * 6
    assert groups(["tasks=2,3", *numbers]) == [6, 6]
    assert groups(["tasks=2,3", *numbers], jobs=4) == [3, 3, 3, 3]
    assert groups(["inner_lr=0.1,0.2 0.1,0.3 0.1"]) == [1, 1, 1], "a tuple of rates is no number"
    assert groups(["algorithm=maml,promp", "discount=0.8,0.9"], base=["--task", "point-nav"]) == [2, 2]
    scheduled = [*BASE, "--outer-lr-schedule", "cosine"]
    assert groups(["outer_lr=0.1,0.2", "inner_lr=0.1,0.2"], base=scheduled) == [4]
