"""Trains members of a sweep in one process, so that they share compiled programs: one after the other, or at once.

`metarl_jax.commands.sweep` starts it; it is no script of its own.
"""

if __name__ == "__main__":  # handles Ctrl-C during the imports
    from metarl_jax.runs.console import startup

    startup.quiet()

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console

from metarl_jax.commands import train
from metarl_jax.runs.config import arguments
from metarl_jax.runs.config.file import read_config
from metarl_jax.runs.console import cli, full_memory
from metarl_jax.runs.storage import files
from metarl_jax.runs.storage.folder import resumable
from metarl_jax.runs.sweeps import jobs, plans, results

AT_ONCE = 8
"""Members that an accelerator trains at once, where nothing else is asked for."""


class Crowded(Exception):
    """The memory does not hold all members of a program, which are to be trained fewer at once."""

    def __init__(self, members: list[str]):
        super().__init__(f"the memory does not hold {len(members)} members at once; they are trained by half as many")
        self.members = members


class Members:
    """Members of a sweep that this process trains."""

    def __init__(self, folder: Path, lock: str):
        self.folder, self.lock = folder, lock
        self.plan = plans.load(folder / plans.FILE)

    def finished(self, name: str) -> bool:
        """Whether a process that was queued again has nothing to do for this member."""
        run = self.folder / name
        try:
            return resumable(run) and results.report(run, read_config(run)) is not None
        except ValueError:  # a damaged folder, of which the member itself tells
            return False

    def _begun(self, name: str) -> tuple[list[str], Path]:
        """The arguments of train.py, and the log, which tells of the start."""
        argv = [*self.plan.arguments(name, self.folder), "--lock", self.lock]
        argv += ["--resume"] * resumable(self.folder / name)
        log = jobs.log_of(self.folder, name)
        with files.opened(log, "a") as file:
            print(jobs.header(["metarl-train", *argv]), file=file)
        return argv, log

    def one(self, name: str) -> int:
        """Trains a member as train.py does; returns the exit status. What it raises stops no other member."""
        argv, log = self._begun(name)
        with _output_to(log):
            try:
                return train.start(argv)
            except Exception:
                traceback.print_exc()
                return 1
            finally:
                print(jobs.footer())

    def several(self, names: Sequence[str]) -> int:
        """Trains members in one program; returns the exit status.

        Raises:
            Crowded: the memory does not hold so many.
        """
        from metarl_jax.runs.together import Asked, train_together

        with contextlib.ExitStack() as stack:
            left: dict[int, IO[str]] = {}  # logs of the members that have not ended, by their number among those asked
            asked: list[Asked] = []
            for argv, path in [self._begun(name) for name in names]:
                log = stack.enter_context(files.opened(path, "a"))
                try:
                    config = arguments.parse(argv).config
                except cli.UserError as error:  # of the folder that it goes on in
                    _end(log, str(error))
                    continue
                left[len(asked)] = log
                asked.append(Asked(config, Console(file=log, width=110)))

            def together(_: Sequence[str]) -> None:
                try:
                    for i, error in train_together(asked, self.lock):
                        _end(left.pop(i), str(error or ""))
                except (MemoryError, RuntimeError) as error:
                    if len(left) == 1 or not full_memory.is_it(error):
                        raise
                    raise Crowded([Path(log.name).stem for log in left.values()]) from error

            if not asked:
                return 1
            first = Path(left[0].name)
            with _output_to(first):
                try:
                    status = cli.run(together, [])
                except Crowded as error:
                    for log in left.values():
                        print(f"note: {error}", jobs.footer(), sep="\n", file=log, flush=True)
                    raise
                except Exception:
                    traceback.print_exc()
                    status = 1
            if status <= 128:
                for log in left.values():  # an error of all, as when the device's memory is full
                    _end(log, "" if log.name == str(first) else f"it ended with others; {first} says why")
            return status


def _end(log: IO[str], error: str) -> None:
    """Notes the end of a member in its log, and what kept it from its evaluation."""
    print(*([f"error: {error}"] if error else []), jobs.footer(), sep="\n", file=log, flush=True)


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Within it, standard output and standard error go to the end of this file, those of libraries in C too."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with files.opened(log, "a", buffering=1) as file:
        try:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for descriptor, old in zip((1, 2), before, strict=True):
                os.dup2(old, descriptor)
                os.close(old)


def main(argv: Sequence[str]) -> int:
    """Trains the members, or goes on with them; returns the exit status of the last one.

    A member that fails stops no other. A signal ends those that run, with a checkpoint, and starts no more.

    Args:
        argv: folder of the sweep, lock, members at once (0: one on a CPU, else `AT_ONCE`), and their names.
    """
    folder, lock, at_once, *names = argv
    members, status = Members(Path(folder), lock), 0
    names = [name for name in names if not members.finished(name)]
    many = _at_once(members, names, int(at_once))
    while names and status <= 128:  # a larger status is a signal
        now, names = names[:many], names[many:]
        try:
            status = members.one(*now) if len(now) == 1 else members.several(now)
        except Crowded as crowded:
            names, many = crowded.members + names, len(crowded.members) // 2
            gc.collect()  # the error holds the failed program's arrays in a cycle
    return status


def _at_once(members: Members, names: Sequence[str], asked: int) -> int:
    if len(names) <= 1 or asked == 1:  # JAX is left alone, since this may be one of several processes
        return 1
    argv = members.plan.arguments(names[0], members.folder)
    cli.prepare_jax(arguments.task(argv))  # whose physics decides flags of XLA, which count at its first use alone
    cli.import_modules()
    import jax

    most = asked or (1 if jax.default_backend() == "cpu" else AT_ONCE)
    if most == 1:
        return 1
    from metarl_jax.runs.together import as_many_as_fit

    config = arguments.parse(argv).config
    return as_many_as_fit(config, min(most, len(names)))


def start() -> int:
    """Runs with the arguments of the process; returns the exit status."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
