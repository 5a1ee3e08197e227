"""Drives the processes that train the members of a sweep."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from metarl_jax.runs.config import TrainConfig, programs_of


class Job(Protocol):
    """A started process, for one member or several in turn."""

    def done(self) -> bool:
        """Whether it has ended, for any reason."""
        ...

    def stop(self) -> None:
        """Requests a checkpoint and the end; may be called repeatedly."""

    def begun(self, name: str) -> bool:
        """Whether it has begun with this member."""
        ...

    def ended(self, name: str) -> bool:
        """Whether it has left this member behind, finished or not."""
        ...

    def last_words(self, name: str) -> str:
        """The output line with the reason for the end of this member."""
        ...


def groups(configs: Mapping[str, TrainConfig], names: Sequence[str], jobs: int) -> list[list[str]]:
    """Members that share their compiled programs, in groups: at least `jobs` of them if there are as many members.

    Args:
        configs: configurations of the members by name.
        names: of the members to be trained.
        jobs: maximum number of running processes.
    """
    programs: dict[Any, list[str]] = {}
    for name in names:
        programs.setdefault(programs_of(configs[name]), []).append(name)
    parts = math.ceil(jobs / max(len(programs), 1))
    return [part for group in programs.values() for k in range(parts) if (part := group[k::parts])]


class _Running:
    """A job and those of its members that have not ended."""

    def __init__(self, names: Sequence[str], job: Job):
        self.names, self.job = [*names], job
        self._first, self._began = names[0], {names[0]: time.monotonic()}

    def ended(
        self, done: bool, finished: Callable[[str], bool], stopping: bool
    ) -> Iterator[tuple[str, float, str | None]]:
        """Members that have ended since the last look: name, minutes, and the last words of a failure.

        Args:
            done: whether the job has ended.
            finished: whether a member's run folder is complete.
            stopping: whether the job was told to stop, which is no failure.
        """
        now = time.monotonic()
        for name in [*self.names]:
            begun = name == self._first or self.job.begun(name)
            began = self._began.setdefault(name, now) if begun else now
            if begun if done else self.job.ended(name):
                self.names.remove(name)
                words = None if finished(name) or (done and stopping) else self.job.last_words(name)
                yield name, (now - began) / 60, words


def drive(
    groups: Sequence[Sequence[str]],
    start: Callable[[Sequence[str]], Job],
    *,
    jobs: int,
    finished: Callable[[str], bool],
    say: Callable[[str], None],
    stopping: Callable[[], bool],
    interval: float = 0.2,
) -> dict[str, str]:
    """Trains members until all have ended; a failure does not stop the others.

    Args:
        groups: names of members; one process trains those of a group.
        start: starts a process for these members.
        jobs: maximum number of running processes.
        finished: whether a member's run folder is complete.
        say: prints a line about a member that started or ended.
        stopping: whether to stop running members and start no more.
        interval: seconds between polls.

    Returns:
        The last words of each failed member, that is, one that ended unfinished without being stopped.
    """
    waiting, running, failures = deque(groups), list[_Running](), {}
    left = {name for names in groups for name in names}

    def ended(name: str, minutes: float, words: str | None) -> None:
        left.discard(name)
        if words is not None:
            failures[name] = words
        how = "finished" if finished(name) else "stopped " if words is None else "failed  "
        text = f"{how} {name} after {minutes:.1f} min, {len(left)} to go"
        say(text if words is None else f"{text}: {words}")

    while running or (waiting and not stopping()):
        while waiting and len(running) < jobs and not stopping():
            names = waiting.popleft()
            try:
                running.append(_Running(names, start(names)))
            except OSError as error:
                for name in names:
                    ended(name, 0.0, str(error))
                continue
            others = f" and {len(names) - 1} more by the same program" if len(names) > 1 else ""
            say(f"started  {names[0]}{others}, {len(running)} running, {sum(map(len, waiting))} waiting")
        for one in list(running):
            done = one.job.done()
            for name, minutes, words in one.ended(done, finished, stopping()):
                ended(name, minutes, words)
            if done:
                running.remove(one)
                if one.names and not stopping():  # the process died before it reached them
                    waiting.appendleft(one.names)
            elif stopping():
                one.job.stop()
        time.sleep(1.0 if stopping() and interval else interval)
    return failures
