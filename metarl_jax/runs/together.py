"""Runs that differ in numbers only, trained in one program by vmap, each in a run folder of its own."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from metarl_jax import devices
from metarl_jax.guard import without_episode
from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoint.states import root_keys
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.console import cli, full_memory, signals, talk
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.runs.logging.progress import TrainingProgress
from metarl_jax.runs.memory import check_run
from metarl_jax.runs.run import draw, report_void, stopped, summarize
from metarl_jax.runs.session import Session, opened, steps_of
from metarl_jax.runs.storage.folder import resumable
from metarl_jax.sharing import stacked
from metarl_jax.training import Chunk, NonFiniteError, check_finite, train, why_void
from metarl_jax.types import MetaState

NEVER = 2**31 - 1
"""A patience that no run exhausts: a run that fails must not stop the others, so that each is looked at by itself."""


class Asked(NamedTuple):
    """A run, and where it talks."""

    config: TrainConfig
    console: Console


class _Run:
    """One of the runs: its session, and its rows among the seeds of all."""

    def __init__(self, asked: Asked, session: Session):
        self.config, self.console = asked
        self.session, self.began = session, time.monotonic()
        self.start = int(np.max(session.state.iteration))
        self.failures = np.asarray(session.state.opt_state.failures)
        self.error: BaseException | None = None
        self.rows: int | slice = 0
        patience = self.config.patience if self.config.on_nonfinite != "abort" else 1
        why = functools.partial(why_void, session.built.algorithm, root_keys(self.config))
        self._check = functools.partial(check_finite, patience=patience, why=why)
        self._patience, self._reported = patience, False
        self.progress = TrainingProgress(self.console, self.start, self.config.iterations)

    def state(self, state: MetaState) -> MetaState:
        """Its own rows of the state of all."""
        return jax.tree.map(lambda leaf: leaf[self.rows], state)

    def take(self, chunk: Chunk, runs: int) -> None:
        """Logs its rows of a chunk that `runs` runs share, and writes a checkpoint where one is due.

        Raises:
            RunStopped: too many of its updates in a row were undone.
            UserError: the metrics are others than before.
        """
        own = Chunk(chunk.start, self.state(chunk.state), {n: v[:, self.rows] for n, v in chunk.metrics.items()}, 0.0)
        for i, undone in enumerate(own.metrics["nonfinite"]):
            self.failures = np.where(undone, self.failures + 1, 0)
            if self.failures.max() >= self._patience:
                until = {name: values[: i + 1] for name, values in own.metrics.items()}
                try:
                    self._check(own._replace(metrics=until), self.failures)
                except NonFiniteError as error:
                    raise stopped(self.config, self.session, error, False, self.console) from error
        self.session.log(own.start, own.metrics)
        if np.any(void := without_episode(own.metrics)) and not self._reported:
            self._reported = True
            report_void(self.config, self.session, own, np.argwhere(void)[0], self.console)
        self.progress.update(own.done, own.metrics, chunk.seconds)
        if (files := self.session.files) is not None:
            files.timing.log(own.done, chunk.seconds / runs, steps_of(own.metrics))
        if own.done % self.config.checkpoint_every == 0 or own.done >= self.config.iterations:
            self.session.checkpoint(own.state)

    def close(self, files: contextlib.ExitStack) -> None:
        """Closes its files; what they raise is an error of this run alone."""
        try:
            files.close()
        except OSError as error:
            self.error = self.error or error


def train_together(asked: Sequence[Asked], lock: str = "kernel") -> Iterator[tuple[int, BaseException | None]]:
    """Trains runs whose programs are the same, see `metarl_jax.runs.config.programs_of`, and evaluates each.

    A folder that holds a run already goes on with it. A run that fails stops no other. The numbers of a run are those
    that it has alone, up to rounding.

    Args:
        asked: the runs.
        lock: as for `metarl_jax.runs.run.train_run`.

    Yields:
        The number of a run that has ended, and what kept it from its evaluation; None: nothing.

    Raises:
        Interrupted: a signal came; every run that was going on has a checkpoint.
    """
    with signals.handled(lambda: "the same command goes on") as received:
        runs: dict[int, _Run] = {}
        with contextlib.ExitStack() as stack:
            for i, (config, console) in enumerate(asked):
                own = contextlib.ExitStack()
                try:
                    session = own.enter_context(opened(config, resumable(config.run_folder), False, console, lock))
                except (cli.UserError, OSError) as error:
                    yield i, error
                else:
                    runs[i] = _Run(asked[i], session)
                    stack.callback(runs[i].close, own)
            # Runs that were killed while their checkpoints were written may be at two iterations.
            for start in sorted({run.start for run in runs.values()}):
                _train([run for run in runs.values() if run.start == start], received)
        for i, run in runs.items():
            yield i, run.error or _evaluate(run)


def _train(runs: list[_Run], received: signals.Signals) -> None:
    first = runs[0].config
    if runs[0].start >= first.iterations:
        return
    seeds = first.seeds
    for r, run in enumerate(runs):
        run.rows = r if seeds == 1 else slice(r * seeds, (r + 1) * seeds)
        what = f"{run.config.task} with {run.config.algorithm}, one of {len(runs)} runs in one program"
        talk.line(run.console, f"training {what}; results go to {run.config.run_folder}")
    keys = [jnp.atleast_1d(root_keys(run.config)) for run in runs]
    states = [jax.tree.map(lambda leaf: leaf[None] if seeds == 1 else leaf, run.session.state) for run in runs]
    state = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)
    algorithm = stacked([run.session.built.algorithm for run in runs for _ in range(seeds)])
    mesh = devices.mesh(first.devices, tasks=configs.algorithm_value(first, "tasks"), seeds=len(runs) * seeds)
    going = [*runs]
    with jax.set_mesh(mesh), received.patient():
        chunks = train(
            algorithm,
            jnp.concatenate(keys),
            first.iterations,
            state=state,
            chunk=first.checkpoint_every,
            on_nonfinite="rollback" if first.on_nonfinite == "rollback" else "skip",
            patience=NEVER,
            pace=lambda count: 0 if received.received is not None or not going else count,
        )
        done = runs[0].start
        for chunk in chunks:
            done, state, live = chunk.done, chunk.state, len(going)
            for run in [*going]:
                try:
                    run.take(chunk, live)
                except signals.Interrupted:  # by a second signal, which is urgent
                    raise
                except (cli.RunStopped, cli.UserError, OSError) as error:
                    run.error = error
                    going.remove(run)
        if received.received is not None:
            for run in going:
                run.session.checkpoint(run.state(state), wait=True)
            raise received.interrupted(f"iteration {done} of {first.iterations} is saved")


def _evaluate(run: _Run) -> BaseException | None:
    """Pictures and evaluation, as at the end of `metarl_jax.runs.run.train_run`; returns what went wrong."""
    try:
        if run.start < run.config.iterations:
            summarize(run.session, time.monotonic() - run.began, run.console)
        draw(run.config, run.session.built)
        evaluate_run(run.config.run_folder, run.console)
    except (cli.UserError, OSError) as error:
        return error
    except (MemoryError, RuntimeError) as error:  # of its own evaluation, whose size is that of no other run
        if not full_memory.is_it(error):
            raise
        return cli.UserError(full_memory.in_words(error))
    return None


def as_many_as_fit(config: TrainConfig, most: int) -> int:
    """How many runs like this one memory may hold in one program, at most `most`."""
    built, count = configs.build(config), most
    while count > 1:
        try:
            check_run(built, dataclasses.replace(config, seed=0, seeds=count * config.seeds))
        except ValueError:
            count //= 2
        else:
            break
    return count
