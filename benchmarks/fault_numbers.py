"""Faults of `benchmarks.faults` with non-finite numbers in training runs."""

from collections.abc import Iterator

from benchmarks.fault_nan import PROGRAM
from benchmarks.fault_runs import Promises, column, rows
from benchmarks.fault_tools import ITERATIONS, SETTINGS, Lab, Outcome, fingerprint

WHEN = 24
"""iteration with the NaN outer gradient"""

ENOUGH = 40
"""number of iterations of a run with NaNs"""


def nans(lab: Lab) -> Iterator[Outcome]:
    """NaN rewards in some tasks, and a NaN gradient under each policy of ``--on-nonfinite``."""
    yield _in_a_task(lab)
    yield _aborted(lab)
    for policy in ("skip", "rollback"):
        yield _undone(lab, policy)


def _in_a_task(lab: Lab) -> Outcome:
    """Episodes of such tasks are void and do not count; training continues with the other tasks."""
    folder, promise = lab.folder("nan-task"), Promises()
    run = lab.train(folder, *SETTINGS, "--iterations", str(ENOUGH), program=["-c", PROGRAM, "task", "0"])
    promise.ended(run, 0)
    void, bad = column(folder, "diverged_episodes"), column(folder, "nonfinite")
    promise(sum(void) > 0 and min(void) == 0, f"between {min(void)} and {max(void)} episodes are void")
    promise(not any(bad), "an update was undone")
    promise(rows(folder) == ENOUGH, f"{rows(folder)} rows instead of {ENOUGH}")
    promise(lab.all_finite(folder), "a checkpoint is not finite")
    when = f"the rewards of a task; {sum(void):g} episodes void in {ENOUGH} iterations"
    return Outcome("NaN", when, "nothing but those episodes", problems=tuple(promise.broken))


def _aborted(lab: Lab) -> Outcome:
    """The run stops without loss; resumed without the NaN, it reaches the reference's final state."""
    folder, promise = lab.folder("nan-abort"), Promises()
    run = lab.train(folder, *SETTINGS, program=["-c", PROGRAM, "gradient", str(WHEN)])
    words = (f"iteration {WHEN}: 'state'", f"last good checkpoint, of iteration {WHEN},", "--on-nonfinite skip")
    promise.ended(run, 1, *words)
    promise(lab.all_finite(folder), "a checkpoint is not finite")
    promise(lab.kept(folder, promise) == WHEN, "it does not go on where it stopped")
    equal = lab.go_on(folder, promise)
    return Outcome("NaN", f"the outer gradient of iteration {WHEN}: abort", "nothing", *equal, tuple(promise.broken))


def _undone(lab: Lab, policy: str) -> Outcome:
    """The update is undone and counted; all earlier states, and the target of a rollback, equal the reference's."""
    folder, promise = lab.folder(f"nan-{policy}"), Promises()
    flags = (
        "--iterations",
        str(ENOUGH),
        "--keep",
        str(ITERATIONS),
        "--on-nonfinite",
        policy,
        "--checkpoint-every",
        "2",
    )
    # Between two checkpoints, so that the state before the update differs from the last checkpoint.
    run = lab.train(folder, *SETTINGS, *flags, program=["-c", PROGRAM, "gradient", str(WHEN + 1)])
    promise.ended(run, 0)
    bad = column(folder, "nonfinite")
    promise(bad == [float(i == WHEN + 1) for i in range(ENOUGH)], f"nonfinite counts {bad}")
    promise(lab.all_finite(folder), "a checkpoint is not finite")
    same = (folder / "metrics.csv").read_bytes().startswith(lab.rows_before(WHEN + 1))
    at, after = (lab.restore(folder, i)[0] for i in (WHEN, WHEN + 2))
    gone_back = fingerprint(at.params) == fingerprint(after.params)
    promise(gone_back == (policy == "rollback"), "θ after the update that was undone is that of another moment")
    theta = lab.known(at)
    lost = "that update" if policy == "skip" else "2 updates"
    when = f"the outer gradient of iteration {WHEN + 1}: {policy}; compared up to there"
    return Outcome("NaN", when, lost, theta, same, tuple(promise.broken))
