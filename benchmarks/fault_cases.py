"""The faults that `benchmarks.faults` injects into training runs; each is a function of a `Lab`."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.fault_runs import (
    UNFINISHED,
    Promises,
    Run,
    files,
    owner,
    pages,
    rows,
    small_disk,
    snapshot,
    unfinished,
)
from benchmarks.fault_tools import BOUND, EVERY, ITERATIONS, SETTINGS, Lab, Outcome

KILLS = ["clock"] * 7 + ["writing"] * 7 + ["training"] * 6 + ["evaluation"] * 2
"""Times of the SIGKILLs, see `_moment`; shuffled, except for the last two."""

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM]

SECONDS = 20.0
"""seconds within which a signal must end a small run: a chunk of 2 s and a checkpoint, on a busy machine"""


def kills(lab: Lab) -> Iterator[Outcome]:
    """Kills a run repeatedly at random times and resumes it each time; starts another run when one ends."""
    plan = KILLS[:-2]
    lab.random.shuffle(plan)
    folder, inside = lab.folder("killed"), 0
    for kind in plan + KILLS[-2:]:
        promise = Promises()
        while True:
            before, begun = rows(folder), unfinished(folder)
            run = lab.resume(folder) if _whole(folder) else _again(lab, folder)
            _moment(lab, kind, run, folder, before, begun)
            if run.kill() == -signal.SIGKILL:
                break
            promise.ended(run, 0)  # before the time of the kill
            yield Outcome("SIGKILL", "all of a run's; its end", "nothing", *lab.finished(folder, promise))
            folder = lab.folder("killed")
        reached, writing = rows(folder), bool(unfinished(folder) - begun)
        inside += writing
        kept = lab.kept(folder, promise) if _whole(folder) else 0
        lost = max(0, reached - kept)
        promise(lost <= BOUND, f"{lost} iterations lost, more than {BOUND}")
        when = "training" if reached > before else "start-up"
        when = "inside a checkpoint write" if writing else "evaluation" if kept == ITERATIONS else when
        yield Outcome("SIGKILL", f"{when}, iteration {reached}", _lost(lost), problems=tuple(promise.broken))
    promise = Promises()
    promise(inside >= 3, f"only {inside} kills fell inside a checkpoint write")
    equal = lab.go_on(folder, promise)
    when = f"{len(KILLS)} of them, {inside} inside a write; the end"
    yield Outcome("SIGKILL", when, "nothing", *equal, tuple(promise.broken))


def _whole(folder: Path) -> bool:
    """Whether the folder has a complete checkpoint."""
    return any(path.name.isdecimal() for path in (folder / "checkpoints").glob("*"))


def _again(lab: Lab, folder: Path) -> Run:
    """Restarts a run that was killed before its first checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)
    return lab.train(folder, *SETTINGS)


def _moment(lab: Lab, kind: str, run: Run, folder: Path, before: int, begun: set[int]) -> None:
    """Waits for a random time during the startup, a checkpoint's write, the training, or the evaluation."""
    if kind == "clock":
        delay = lab.random.uniform(0, 0.5 * lab.seconds)
    elif kind == "writing":
        target = before + lab.random.randrange(20)
        run.until(lambda: rows(folder) > target)
        begun |= unfinished(folder)
        run.until(lambda: unfinished(folder) - begun)
        delay = lab.random.uniform(0, 0.01)
    elif kind == "training":
        run.until(lambda: rows(folder) > before)
        delay = lab.random.uniform(0, 0.5)
    else:
        run.until(lambda: rows(folder) == ITERATIONS and "results go to" in run.output)
        delay = lab.random.uniform(0, 0.5)
    limit = time.monotonic() + delay
    run.until(lambda: time.monotonic() >= limit)


def terms(lab: Lab) -> Iterator[Outcome]:
    """Stops a run repeatedly with signals and resumes it each time."""
    folder = lab.stopped_at(0, lab.folder("signals"))
    for signum in SIGNALS:
        promise, before = Promises(), rows(folder)
        run = lab.resume(folder)
        target = before + lab.random.randrange(30)
        run.until(lambda target=target: rows(folder) > target)
        sent = time.monotonic()
        run.send(signum)
        promise.ended(run, 128 + signum, f"--resume --folder {folder}")
        seconds = time.monotonic() - sent
        promise(seconds < SECONDS, f"it took {seconds:.1f} s to stop, more than {SECONDS} s")
        reached = rows(folder)
        lost = max(0, reached - lab.kept(folder, promise))
        promise(lost == 0, f"{lost} iterations lost, although the run could save them")
        when = f"training, iteration {reached}; stopped in {seconds:.1f} s"
        yield Outcome(signum.name, when, _lost(lost), problems=tuple(promise.broken))
    promise = Promises()
    equal = lab.go_on(folder, promise)
    yield Outcome(f"{len(SIGNALS)} signals", "the end", "nothing", *equal, tuple(promise.broken))


def _lost(iterations: int) -> str:
    return f"{iterations} iterations, redone" if iterations else "nothing"


def half(content: bytes) -> bytes:
    """Truncates content to the first half."""
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """Flips one bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else b""


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "cut to half": half,
    "emptied": lambda content: b"",
    "a bit flipped": flipped,
    "deleted": None,
}


def damage(path: Path, how: str) -> None:
    """Applies one of `DAMAGES` to a file."""
    change = DAMAGES[how]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


def damages(lab: Lab) -> Iterator[Outcome]:
    """Damages each file of the newest checkpoint in each way: it is read correctly, or the previous one is used."""
    example = lab.stopped_at(ITERATIONS, lab.folder("example"), checkpoints=2)
    newest = example / "checkpoints" / str(ITERATIONS)
    folder, ends = lab.folder("damaged"), set[str]()
    for path in files(newest):
        name = str(path.relative_to(newest))
        went_back, promise = [], Promises()
        for how in DAMAGES:
            shutil.copytree(example, folder)
            damage(folder / "checkpoints" / str(ITERATIONS) / name, how)
            before = snapshot(folder)
            try:
                state, notes = lab.restore(folder)
            except Exception as error:  # a reader must not raise any error if there is an intact checkpoint
                promise(False, f"{how}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
            else:
                iteration = int(state.iteration)
                promise(lab.known(state), f"{how}: a state that never was")
                promise(iteration >= ITERATIONS - EVERY, f"{how}: back to {iteration}")
                if iteration < ITERATIONS:
                    went_back.append(how)
                    named = any(f"checkpoint {ITERATIONS} " in note for note in notes)
                    promise(named, f"{how}: no note names the damaged checkpoint: {notes}")
            promise(snapshot(folder) == before, f"{how}: reading changed the folder")
            shutil.rmtree(folder)
        # One complete run for each relevant kind of file, with the last relevant damage.
        kind = "/".join(name.split("/")[:2])
        equal: tuple[bool | None, bool | None] = (not promise.broken, None)
        if went_back and kind not in ends:
            ends.add(kind)
            shutil.copytree(example, folder)
            damage(folder / "checkpoints" / str(ITERATIONS) / name, went_back[-1])
            run = lab.resume(folder)
            promise.ended(run, 0)
            promise(f"checkpoint {ITERATIONS} is damaged" in " ".join(run.output.split()), "the run says nothing of it")
            equal = lab.finished(folder, promise)
            shutil.rmtree(folder)
        lost = f"{EVERY} iterations if {', '.join(went_back)}" if went_back else "nothing"
        yield Outcome("damage", f"{name}: {', '.join(DAMAGES)}", lost, *equal, tuple(promise.broken))
    yield from _refused(lab)


def _refused(lab: Lab) -> Iterator[Outcome]:
    """Damages required files other than checkpoints: the error names them, and nothing is changed."""
    for name, how in (("metrics.csv", "cut to half"), ("metrics.csv", "deleted"), ("config.json", "cut to half")):
        folder, promise = lab.stopped_at(ITERATIONS // 2, lab.folder("refused")), Promises()
        damage(folder / name, how)
        before = snapshot(folder)
        promise.ended(lab.resume(folder), 2, name)
        promise(snapshot(folder) == before, "the folder was changed")
        (folder / name).write_bytes(
            lab.rows_before(ITERATIONS // 2) if name == "metrics.csv" else (lab.reference / name).read_bytes()
        )
        equal = lab.go_on(folder, promise) if how == "deleted" else (None, None)
        yield Outcome("damage", f"{name}: {how}; refused", "nothing", *equal, tuple(promise.broken))


def disks(lab: Lab) -> Iterator[Outcome]:
    """Fills the disk during the writes of a checkpoint and of a table; with free space, the run resumes."""
    start = pages(lab.reference / "checkpoints" / "0")
    for what, room, flags in (
        ("a checkpoint", start + start // 2, []),
        ("metrics.csv", 24, ["--override", "--checkpoint-every", str(ITERATIONS)]),
        ("TensorBoard's events", 24, ["--override", "--checkpoint-every", str(ITERATIONS)]),
    ):
        disk, promise = lab.folder("disk"), Promises()
        with small_disk(disk, start + room + 8) as remount, contextlib.ExitStack() as elsewhere:
            folder = lab.stopped_at(0, disk / "run")
            if what == "metrics.csv":  # the other tables are on another disk; a link would be rejected
                for other, make in (("tensorboard", Path.mkdir), ("timing.csv", Path.touch)):
                    elsewhere.enter_context(mounted(lab.folder(other), folder / other, make))
            run = lab.resume(folder, *flags)
            promise.ended(run, 1, "No space left on device", f"--resume --folder {folder}")
            kept, reached = lab.kept(folder, promise), rows(folder)
            wrote = bool(list((folder / "checkpoints").glob(UNFINISHED)))
            promise(wrote == (what == "a checkpoint"), f"the disk was full in another moment than {what}")
            remount("size=64m")
            equal = lab.go_on(folder, promise)
        lost = f"{reached - kept} iterations, redone"
        yield Outcome("full disk", f"in {what}, iteration {reached}", lost, *equal, tuple(promise.broken))


@contextlib.contextmanager
def mounted(source: Path, where: Path, make: Callable[[Path], None]) -> Iterator[None]:
    """Bind-mounts one file or folder over another; creates both."""
    make(source)
    make(where)
    subprocess.run(["mount", "--bind", source, where], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", where], check=True)


def read_only(lab: Lab) -> Iterator[Outcome]:
    """Read-only file system: a start and a resume change nothing and report the reason."""
    disk = lab.folder("read-only")
    with small_disk(disk, 65536) as remount:
        folder = lab.stopped_at(ITERATIONS // 2, disk / "run")
        before = snapshot(disk)
        remount("ro")
        for when, run in (
            ("start", lambda: lab.train(disk / "new", *SETTINGS)),
            ("resumption", lambda: lab.resume(folder)),
        ):
            promise = Promises()
            promise.ended(run(), 2, "read-only file system")
            promise(snapshot(disk) == before, "something was changed")
            yield Outcome("read-only folder", when, "nothing", problems=tuple(promise.broken))
        remount("rw")
        promise = Promises()
        equal = lab.go_on(folder, promise)
    yield Outcome("read-only folder", "writable again", "nothing", *equal, tuple(promise.broken))


def writers(lab: Lab) -> Iterator[Outcome]:
    """A second process in the same folder is rejected while the first is alive, and accepted after its end."""
    folder, promise = lab.stopped_at(0, lab.folder("writers")), Promises()
    first = lab.resume(folder)
    first.until(lambda: rows(folder))
    first.send(signal.SIGSTOP)  # it is alive, holds the lock, and cannot end before the second process
    second = lab.resume(folder)
    promise.ended(second, 2, f"process {first.process.pid} on {socket.gethostname()}")
    promise(owner(folder) == first.process.pid, "the lock names another process")
    yield Outcome("second writer", "while the first trains", "nothing", problems=tuple(promise.broken))
    promise = Promises()
    first.kill()
    lost = rows(folder) - lab.kept(folder, promise)
    equal = lab.go_on(folder, promise)
    yield Outcome("second writer", "after SIGKILL of the first", _lost(lost), *equal, tuple(promise.broken))
