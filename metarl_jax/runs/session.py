"""Resources of a training run: environment, algorithm, devices, and in one process the run folder."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from rich.console import Console

from metarl_jax import devices, envs
from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoint.checkpoints import Checkpoints
from metarl_jax.runs.checkpoint.states import initial_state
from metarl_jax.runs.cluster import distributed
from metarl_jax.runs.config import Build, Built, TrainConfig
from metarl_jax.runs.config.file import differences, read_config, to_json, write_config
from metarl_jax.runs.console import talk
from metarl_jax.runs.console.cli import UserError, user_errors
from metarl_jax.runs.logging.loggers import Logger, TableLogger, TensorBoardLogger, TimingLog, WandbLogger, rows
from metarl_jax.runs.memory import check_run
from metarl_jax.runs.storage import files
from metarl_jax.runs.storage.folder import check_own, check_path, clear, only_writer, unborn
from metarl_jax.types import MetaState

T = TypeVar("T")


@dataclasses.dataclass
class Files:
    """Open files of the writing process."""

    checkpoints: Checkpoints
    loggers: list[Logger]
    timing: TimingLog
    seeds: tuple[int, ...]
    returns: list[float] = dataclasses.field(default_factory=list)
    """returns after adaptation since the last checkpoint; their mean is the score of the next"""

    def log(self, start: int, metrics: dict[str, np.ndarray]) -> None:
        """Logs the rows of the iterations from `start` on and flushes the loggers.

        Raises:
            UserError: the metrics are others than before, as when a run goes on with other code.
        """
        if len(self.seeds) == 1:
            metrics = {name: values[:, None] for name, values in metrics.items()}
        if "return" in metrics:
            # NaN if a seed has no return
            self.returns += np.asarray(metrics["return"], float)[..., -1].mean(1).tolist()
        flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in metrics.items()}
        for number, record in enumerate(rows(flat)):
            iteration, seed = divmod(number, len(self.seeds))
            for logger in self.loggers:
                try:
                    logger.log(start + iteration, self.seeds[seed], record)
                except ValueError as error:
                    raise UserError(str(error)) from error
        for logger in self.loggers:
            logger.flush()

    def checkpoint(self, state: MetaState) -> None:
        """Starts writing a checkpoint, after the rows of its iterations are on disk."""
        finite = [value for value in self.returns if np.isfinite(value)]
        self.checkpoints.save(state, float(np.mean(finite)) if finite else None)
        self.returns.clear()


@dataclasses.dataclass
class Session:
    """A training run in one process; with several processes, only one has the files."""

    built: Built
    mesh: jax.sharding.Mesh
    state: MetaState
    files: Files | None
    steps: float = 0.0
    """number of environment steps"""
    undone: int = 0
    """number of updates undone because of a non-finite number, or because all episodes were void"""
    diverged: int = 0
    """number of void episodes"""

    def log(self, start: int, metrics: dict[str, np.ndarray]) -> None:
        """Updates the counts and logs the rows of the iterations from `start` on."""
        self.steps += steps_of(metrics)
        self.undone += int(metrics["nonfinite"].sum())
        self.diverged += int(metrics["diverged_episodes"].sum()) if "diverged_episodes" in metrics else 0
        if self.files is not None:
            self.files.log(start, metrics)

    def checkpoint(self, state: MetaState, wait: bool = False) -> None:
        """Writes a checkpoint. All processes must call this, since seeds may be sharded across them."""
        state = distributed.gather(state)
        if self.files is not None:
            self.files.checkpoint(state)
            if wait:
                self.files.checkpoints.wait()


def _check_folder(config: TrainConfig, resume: bool, override: bool) -> None:
    """Raises ValueError if a run may not start, or resume, in its folder."""
    if not (config.own or config.task.isprintable()):
        envs.card(config.task)  # reports an unknown name as such, before it is rejected as part of the folder's name
    folder = config.run_folder
    check_path(folder)
    check_own(folder)
    another = "choose another folder" if config.own else "start another run by another --folder"
    if not resume:
        if folder.exists() and not unborn(folder):
            how = another if config.own else "go on with it by --resume, or choose another by --folder"
            raise ValueError(f"the run folder {folder} exists{' and holds no run' * bool(config.own)}; {how}")
        return
    fixed, safe = differences(read_config(folder), config)
    if not files.there(folder / "checkpoints", folder=True):
        raise ValueError(f"{folder} holds no checkpoints; restore a copy, or {another}")
    if fixed:
        raise ValueError(
            f"{folder} is a run of another configuration: {'; '.join(fixed + safe)}; give these options as they "
            f"were{'' if config.own else ', or none and no preset'}, or {another}"
        )
    if safe and not override:
        raise ValueError(
            f"{folder} is a run of another configuration: {'; '.join(safe)}; --override goes on with the new values"
        )


def _check_shared(built: Built, mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError if a size that the algorithm shards is not divisible by the number of devices."""
    if mesh.size > 1:  # tracing takes seconds
        key = jax.random.key(0)
        with jax.set_mesh(mesh):
            jax.eval_shape(lambda key: built.algorithm.update(key, built.algorithm.init(key)), key)


@contextlib.contextmanager
def opened(
    config: TrainConfig,
    resume: bool,
    override: bool,
    console: Console,
    lock: str = "kernel",
    build: Build | None = None,
) -> Iterator[Session]:
    """Context manager for a session. All possible checks run before the folder is modified.

    Raises:
        UserError: the configuration or the folder is invalid; errors of the writing process are raised in all of them.
    """
    with contextlib.ExitStack() as stack:
        _by_writer(lambda: _check_folder(config, resume, override))
        with user_errors(), talk.status(console, f"setting up {config.task} and {config.algorithm}"):
            built = (build or configs.build)(config)
            check_run(built, config)
            tasks = configs.algorithm_value(config, "tasks")
            mesh = devices.mesh(config.devices, tasks=tasks, seeds=config.seeds)
            _check_shared(built, mesh)
            state = initial_state(built, config)
        state, files = _by_writer(lambda: _open_files(config, state, resume, stack, lock)) or (state, None)
        if jax.process_count() > 1:
            state = distributed.from_writer(distributed.gather(state))
        for note in files.checkpoints.notes if files else ():
            talk.note(console, note)
        yield Session(built, mesh, state, files)


def _by_writer(action: Callable[[], T]) -> T | None:
    """Runs `action` in the writing process; returns its result, else None. Its UserError is raised in all processes."""
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
    config: TrainConfig, state: MetaState, resume: bool, stack: contextlib.ExitStack, lock: str
) -> tuple[MetaState, Files]:
    """The initial or restored state, and the writer's files, which `stack` closes."""
    folder, iteration = config.run_folder, None
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(only_writer(folder, lock))
    if not resume:
        clear(folder)
    checkpoints = Checkpoints(folder, config, state, write=True)
    stack.callback(checkpoints.close)
    if resume:
        state = checkpoints.restore()
        iteration = int(np.max(state.iteration))
        if iteration > config.iterations:
            raise ValueError(
                f"iterations is {config.iterations}, and {folder} has done {iteration}; choose at least {iteration}"
            )
    table = TableLogger(folder / "metrics.csv", iteration, config.seeds)
    stack.callback(table.close)
    if iteration is not None:
        checkpoints.discard_after(iteration)
    loggers: list[Logger] = [table, TensorBoardLogger(folder / "tensorboard", iteration, config.all_seeds)]
    if config.wandb is not None:
        loggers.append(WandbLogger(config.wandb, folder, json.loads(to_json(config)), config.seeds))
    for logger in loggers[1:]:
        stack.callback(logger.close)
    timing = TimingLog(folder / "timing.csv")
    stack.callback(timing.close)
    if not resume:
        checkpoints.save(state)  # so that there is always a checkpoint to go back to
        checkpoints.wait()
        checkpoints.prove(int(np.max(state.iteration)))
    write_config(config, folder)  # last: its presence marks a run that can be resumed
    return state, Files(checkpoints, loggers, timing, config.all_seeds)


def steps_of(metrics: dict[str, np.ndarray]) -> float:
    """Number of environment steps of a chunk."""
    return float(metrics["environment_steps"].sum()) if "environment_steps" in metrics else 0.0
