"""A training run from its start, or from where it was stopped, to its evaluation."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from rich.console import Console

from metarl_jax import devices
from metarl_jax.guard import first_nan
from metarl_jax.runs import config as configs
from metarl_jax.runs import distributed, signals
from metarl_jax.runs.checkpoints import Checkpoints
from metarl_jax.runs.cli import RunStopped, UserError, user_errors
from metarl_jax.runs.config import Built, TrainConfig
from metarl_jax.runs.config_file import differences, read_config, to_json, write_config
from metarl_jax.runs.evaluate import evaluate_run
from metarl_jax.runs.folder import only_writer
from metarl_jax.runs.logging import Logger, TableLogger, TensorBoardLogger, TimingLog, WandbLogger, rows
from metarl_jax.runs.progress import TrainingProgress, duration, quantity
from metarl_jax.runs.states import initial_state, root_keys
from metarl_jax.training import NonFiniteError, streams, train
from metarl_jax.types import MetaState

T = TypeVar("T")


@dataclasses.dataclass
class _Files:
    """What the writer has open."""

    checkpoints: Checkpoints
    loggers: list[Logger]
    timing: TimingLog
    seeds: tuple[int, ...]
    returns: list[float] = dataclasses.field(default_factory=list)
    """after adaptation, of every iteration since the last checkpoint: its score is their mean"""

    def log(self, start: int, metrics: dict[str, np.ndarray]) -> None:
        """The rows of the iterations from `start` on, flushed."""
        shape = (-1, len(self.seeds))
        if len(self.seeds) == 1:
            metrics = {name: values[:, None] for name, values in metrics.items()}
        if "return" in metrics:
            self.returns += np.asarray(metrics["return"], float)[..., -1].mean(1).tolist()
        flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in metrics.items()}
        for number, record in enumerate(rows(flat)):
            iteration, seed = divmod(number, shape[1])
            for logger in self.loggers:
                logger.log(start + iteration, self.seeds[seed], record)
        for logger in self.loggers:
            logger.flush()

    def checkpoint(self, state: MetaState) -> None:
        """Starts to write a checkpoint; the rows of its iterations are on disk before."""
        finite = [value for value in self.returns if np.isfinite(value)]
        self.checkpoints.save(state, float(np.mean(finite)) if finite else None)
        self.returns.clear()


@dataclasses.dataclass
class _Session:
    """A training run in one process. Of several, one has the files."""

    built: Built
    mesh: jax.sharding.Mesh
    state: MetaState
    files: _Files | None
    steps: float = 0.0
    """environment steps taken"""
    undone: int = 0
    """updates that were, since a number was not finite"""

    def log(self, start: int, metrics: dict[str, np.ndarray]) -> None:
        """Counts, and writes the rows of the iterations from `start` on."""
        self.steps += _steps(metrics)
        self.undone += int(metrics["nonfinite"].sum())
        if self.files is not None:
            self.files.log(start, metrics)

    def checkpoint(self, state: MetaState, wait: bool = False) -> None:
        """Every process must call this, since each may have seeds that no other has."""
        state = distributed.gather(state)
        if self.files is not None:
            self.files.checkpoint(state)
            if wait:
                self.files.checkpoints.wait()


def _check_folder(config: TrainConfig, resume: bool, override: bool) -> None:
    """Whether a run may start, or go on, in its folder; raises ValueError if not."""
    folder = config.run_folder
    if not resume:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"the run folder {folder} exists; go on with it by --resume, or choose another by --folder"
            )
        return
    fixed, safe = differences(read_config(folder), config)
    if fixed:
        raise ValueError(
            f"{folder} is a run of another configuration: {'; '.join(fixed + safe)}; leave these options as they were, "
            "or start another run by another --folder"
        )
    if safe and not override:
        raise ValueError(
            f"{folder} is a run of another configuration: {'; '.join(safe)}; --override goes on with the new values"
        )


@contextlib.contextmanager
def _opened(config: TrainConfig, resume: bool, override: bool, console: Console) -> Iterator[_Session]:
    """A session, closed at the end. Everything that can be checked is checked before the folder is touched.

    Raises:
        UserError: the configuration, or the state of the folder; in all processes what the writer finds.
    """
    with contextlib.ExitStack() as stack:
        _by_writer(lambda: _check_folder(config, resume, override))
        with user_errors(), console.status(f"setting up {config.task} and {config.algorithm}"):
            built = configs.build(config)
            tasks = configs.algorithm_value(config, "tasks")
            mesh = devices.mesh(config.devices, tasks=tasks, seeds=config.seeds)
            state = initial_state(built, config)
        opened = _by_writer(lambda: _open_files(config, state, resume, stack))
        state, files = opened or (state, None)
        if jax.process_count() > 1:
            state = distributed.from_writer(distributed.gather(state))
        for note in files.checkpoints.notes if files else ():
            console.print(f"[yellow]note:[/] {note}", soft_wrap=True)
        yield _Session(built, mesh, state, files)


def _by_writer(action: Callable[[], T]) -> T | None:
    """What the writer's action returns; None in other processes. What it refuses is refused in all of them."""
    result, refusal = None, None
    if distributed.is_writer():
        try:
            with user_errors():
                result = action()
        except UserError as error:
            refusal = str(error)
    refusal = distributed.from_writer(refusal)
    if refusal is not None:
        raise UserError(refusal)
    return result


def _open_files(
    config: TrainConfig, state: MetaState, resume: bool, stack: contextlib.ExitStack
) -> tuple[MetaState, _Files]:
    """The state to start from, and what the writer opens and the stack closes."""
    folder, iteration = config.run_folder, None
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(only_writer(folder))
    checkpoints = Checkpoints(folder, config, state, write=True)
    stack.callback(checkpoints.close)
    if resume:
        state = checkpoints.restore()
        iteration = int(np.max(state.iteration))
    table = TableLogger(folder / "metrics.csv", iteration, config.seeds)
    stack.callback(table.close)
    if iteration is not None:
        checkpoints.discard_after(iteration)
    write_config(config, folder)
    loggers: list[Logger] = [table, TensorBoardLogger(folder / "tensorboard", iteration, config.all_seeds)]
    if config.wandb is not None:
        loggers.append(WandbLogger(config.wandb, folder, json.loads(to_json(config)), config.seeds))
    for logger in loggers[1:]:
        stack.callback(logger.close)
    timing = TimingLog(folder / "timing.csv")
    stack.callback(timing.close)
    if not resume:
        checkpoints.save(state)  # so that there is one to go back to, whatever happens
        checkpoints.wait()
    return state, _Files(checkpoints, loggers, timing, config.all_seeds)


def train_run(
    config: TrainConfig, console: Console, *, resume: bool = False, override: bool = False, debug_nans: bool = False
) -> Path:
    """Trains in a run folder, draws the learning curve and evaluates.

    SIGTERM and SIGINT let the chunk that runs end (about two seconds, or one meta-iteration where that takes longer),
    take a checkpoint and raise. A process that is killed without a chance loses what came after the newest checkpoint
    and nothing else: `resume` repeats it, bit for bit.

    Args:
        config: of the run.
        console: where progress is shown.
        resume: go on from the newest whole checkpoint of the folder.
        override: whether `resume` may change what `metarl_jax.runs.config_file.SAFE_TO_CHANGE` names.
        debug_nans: find the operation that yields the first NaN, if there is one; then stop.

    Returns:
        The run folder.

    Raises:
        UserError: bad input; nothing was overwritten.
        RunStopped: by a signal, a full disk, or numbers that are not finite; the checkpoints before are kept.
    """
    folder, began = config.run_folder, time.monotonic()
    hint = f"go on with: python experiments/train.py --resume --folder {folder}"
    with signals.handled(hint) as received:
        try:
            with _opened(config, resume, override, console) as session:
                start = int(np.max(session.state.iteration))
                _announce(config, session, start, resume, console)
                with distributed.peer_errors():
                    _train(config, session, console, received, debug_nans)
        except OSError as error:
            raise RunStopped(
                f"cannot write to {folder}: {' '.join(str(error).split())}; every whole checkpoint is kept: make room, "
                f"then {hint}"
            ) from error
        if distributed.is_writer():
            if start < config.iterations:
                _summarize(session, time.monotonic() - began, console)
            _draw(config, session.built)
            evaluate_run(folder, console)
    return folder


def _summarize(session: _Session, seconds: float, console: Console) -> None:
    steps = f"{quantity(session.steps)} environment steps"
    console.print(f"trained for {duration(seconds)} (h:mm:ss), {steps}", highlight=False)
    if session.undone:
        several = "updates were" if session.undone > 1 else "update was"
        console.print(f"[yellow]note:[/] {session.undone} {several} undone, since a number was not finite")


def _draw(config: TrainConfig, built: Built) -> None:
    from metarl_jax.runs import plots  # matplotlib loads while nobody waits for the first iteration

    metrics = plots.read_metrics(config.run_folder / "metrics.csv")
    if any(name.startswith("return_") for name in metrics):
        title = f"{built.env.name}, {config.algorithm}"
        plots.learning_curve(metrics, config.run_folder / "learning_curve.png", title=title, horizon=built.env.horizon)


def _announce(config: TrainConfig, session: _Session, start: int, resume: bool, console: Console) -> None:
    several = f", {config.seeds} seeds at once" if config.seeds > 1 else ""
    if jax.process_count() > 1:
        several = f" of {jax.process_count()} processes{several}"
    console.print(
        f"{'resuming' if resume else 'training'} {session.built.env.name} with {config.algorithm} on "
        f"{session.mesh.size} {jax.default_backend().upper()} device{'s'[: session.mesh.size > 1]}{several}, "
        f"iterations {start} to {config.iterations}; results go to {config.run_folder}",
        soft_wrap=True,
        highlight=False,
    )


def _train(
    config: TrainConfig, session: _Session, console: Console, received: signals.Signals, debug_nans: bool
) -> None:
    start, state = int(np.max(session.state.iteration)), session.state
    done = start

    def pace(count: int) -> int:
        stop, count = distributed.agree(received.received is not None, count)
        return 0 if stop else count

    chunks = train(
        session.built.algorithm,
        root_keys(config),
        config.iterations,
        state=session.state,
        chunk=config.checkpoint_every,
        on_nonfinite="abort" if debug_nans else config.on_nonfinite,
        patience=config.patience,
        pace=pace,
    )
    progress = TrainingProgress(console, start, config.iterations)
    try:
        with jax.set_mesh(session.mesh), progress, received.patient():
            for chunk in chunks:
                done, state = chunk.done, chunk.state
                session.log(chunk.start, chunk.metrics)
                if session.files is not None:
                    session.files.timing.log(done, chunk.seconds, _steps(chunk.metrics))
                if done % config.checkpoint_every == 0 or done >= config.iterations:
                    session.checkpoint(state)
                progress.update(done, chunk.metrics, chunk.seconds)
            if received.received or done < config.iterations:
                session.checkpoint(state, wait=True)
                raise received.interrupted(f"iteration {done} of {config.iterations} is saved")
    except NonFiniteError as error:
        raise _stopped(config, session, error, debug_nans, console) from error


def _steps(metrics: dict[str, np.ndarray]) -> float:
    return float(metrics["environment_steps"].sum()) if "environment_steps" in metrics else 0.0


def _stopped(
    config: TrainConfig, session: _Session, error: NonFiniteError, debug_nans: bool, console: Console
) -> RunStopped:
    """What to tell of numbers that are not finite; the rows before them are logged."""
    session.log(error.iteration - len(next(iter(error.metrics.values()))), error.metrics)
    text = f"stopped at {error}"
    if session.files is not None:
        checkpoints = session.files.checkpoints
        checkpoints.wait()
        last = checkpoints.iterations()[-1]
        text += f"; the last good checkpoint, of iteration {last}, is in {checkpoints.directory}"
    if not debug_nans:
        return RunStopped(
            f"{text}; --resume --debug-nans finds the operation, and --resume --override --on-nonfinite skip goes on "
            "without such updates"
        )
    with console.status("looking for the operation, one by one; this can take minutes"):
        found = _operation(config, session, error)
    return RunStopped(f"{text}; {found or 'no operation yields a NaN, so a number overflowed to infinity'}")


def _operation(config: TrainConfig, session: _Session, error: NonFiniteError) -> str | None:
    keys, state = streams(root_keys(config)).train, distributed.gather(error.state)
    if error.seed is not None:
        keys, state = keys[error.seed], jax.tree.map(lambda leaf: leaf[error.seed], state)
    # θ was not touched by the update that was undone, so this is the state before it.
    before = MetaState(state.params, state.opt_state.opt_state, state.iteration - 1)
    key = jax.random.fold_in(keys, error.iteration)
    return first_nan(session.built.algorithm, key, before)
