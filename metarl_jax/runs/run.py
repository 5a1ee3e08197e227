"""A training run, from its start or a checkpoint to its evaluation."""

import shlex
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from metarl_jax.guard import first_nan, unguarded, without_episode
from metarl_jax.runs.checkpoint.states import root_keys
from metarl_jax.runs.cluster import distributed
from metarl_jax.runs.config import Build, Built, TrainConfig
from metarl_jax.runs.config.arguments import folder_option
from metarl_jax.runs.console import cli, signals, talk, user_modules
from metarl_jax.runs.console.cli import RunStopped
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.runs.logging.progress import TrainingProgress, duration, quantity
from metarl_jax.runs.session import Session, opened, steps_of
from metarl_jax.runs.storage.folder import resumable
from metarl_jax.training import Chunk, NonFiniteError, streams, train, why_void
from metarl_jax.types import MetaState


def train_run(
    config: TrainConfig,
    console: Console,
    *,
    resume: bool = False,
    override: bool = False,
    debug_nans: bool = False,
    lock: str = "kernel",
    build: Build | None = None,
) -> Path:
    """Trains in a run folder, plots the learning curve and evaluates.

    On SIGTERM, SIGINT, SIGHUP or the loss of standard output, the current chunk finishes (about two seconds, or one
    meta-iteration if that takes longer; the next chunk if one is being logged), a checkpoint is written, and an error
    is raised. A killed process loses only the work after the newest checkpoint: `resume` repeats it bit for bit (on a
    GPU only if the compiled program is still in the cache, since XLA may choose other kernels in a new compilation).

    Args:
        config: configuration of the run.
        console: where progress is shown.
        resume: continue from the newest intact checkpoint of the folder.
        override: whether `resume` may change the options in `metarl_jax.runs.config.file.SAFE_TO_CHANGE`.
        debug_nans: on the first NaN, find the operation that produced it, then stop.
        lock: "kernel" or "file"; see `metarl_jax.runs.storage.folder.only_writer`.
        build: makes environment and algorithm of the configuration; None: by their names.

    Returns:
        The run folder.

    Raises:
        UserError: bad input; nothing was overwritten.
        RunStopped: a signal, a full disk, or numbers that are not finite; existing checkpoints are kept.
    """
    folder, began = config.run_folder, time.monotonic()

    def hint() -> str:
        if not resumable(folder):
            return "the run had not begun; start it again by the same command"
        if config.own:
            return "the same call goes on with it"
        own = [word for module in user_modules.named() for word in ("--import", module)]
        return f"go on with: {cli.call('train')} {shlex.join([*own, '--resume', *folder_option(folder)])}"

    with signals.handled(hint) as received:
        try:
            with opened(config, resume, override, console, lock, build) as session:
                start = int(np.max(session.state.iteration))
                _announce(config, session, start, resume, console)
                with distributed.peer_errors():
                    _train(config, session, console, received, debug_nans)
        except cli.OutputLost as lost:
            raise cli.OutputLost(f"{lost}; {hint()}") from lost
        except OSError as error:
            raise RunStopped(
                f"cannot write to {folder}: {' '.join(str(error).split())}; every whole checkpoint is kept: make room, "
                f"then {hint()}"
            ) from error
        if distributed.is_writer():
            if start < config.iterations:
                summarize(session, time.monotonic() - began, console)
            draw(config, session.built)
            evaluate_run(folder, console, build=build)
    return folder


def summarize(session: Session, seconds: float, console: Console) -> None:
    """Prints how long training took, and what of it did not count."""
    steps = f"{quantity(session.steps)} environment steps"
    talk.line(console, f"trained for {duration(seconds)} (h:mm:ss), {steps}")
    if session.diverged:
        several = "episodes" if session.diverged > 1 else "episode"
        counted = f"{quantity(session.diverged)} {several} diverged and count nowhere"
        talk.note(console, f"{counted}; the column diverged_episodes of metrics.csv says when")
    if session.undone:
        several = "updates were" if session.undone > 1 else "update was"
        talk.note(console, f"{session.undone} {several} undone, since a number was not finite or no episode sound")


def draw(config: TrainConfig, built: Built) -> None:
    """Draws the learning curve of a run folder, and what θ meant, if it holds hyperparameters."""
    from metarl_jax.runs.pictures import plots, theta_plot  # import matplotlib, which would delay the first iteration

    metrics = plots.read_metrics(config.run_folder / "metrics.csv")
    if any(plots.STAGE.fullmatch(name) for name in metrics):
        title = f"{built.env.name}, {config.algorithm}"
        online = built.algorithm.online
        unit = "episode" if online is not None and online.learn is None else "inner step"
        path = config.run_folder / "learning_curve.png"
        plots.learning_curve(metrics, path, title=title, horizon=built.env.horizon, unit=unit)
        theta_plot.hyperparameters(metrics, config.run_folder / "hyperparameters.png", title=title)


def _announce(config: TrainConfig, session: Session, start: int, resume: bool, console: Console) -> None:
    several = f", {config.seeds} seeds at once" if config.seeds > 1 else ""
    if jax.process_count() > 1:
        several = f" of {jax.process_count()} processes{several}"
    talk.line(
        console,
        f"{'resuming' if resume else 'training'} {session.built.env.name} with {config.algorithm} on "
        f"{session.mesh.size} {jax.default_backend().upper()} device{'s'[: session.mesh.size > 1]}{several}, "
        f"iterations {start} to {config.iterations}; results go to {config.run_folder}",
    )


def _train(
    config: TrainConfig, session: Session, console: Console, received: signals.Signals, debug_nans: bool
) -> None:
    start, state = int(np.max(session.state.iteration)), session.state
    done, reported = start, False

    def pace(count: int) -> int:
        stop, count = distributed.agree(received.received is not None or bool(cli.output_lost()), count)
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
        with jax.set_mesh(session.mesh), progress, received.patient(), cli.patient_output():
            for chunk in chunks:
                done, state = chunk.done, chunk.state
                session.log(chunk.start, chunk.metrics)
                void = without_episode(chunk.metrics)
                if np.any(void) and not reported:
                    reported = True
                    report_void(config, session, chunk, np.argwhere(void)[0], console)
                if session.files is not None:
                    session.files.timing.log(done, chunk.seconds, steps_of(chunk.metrics))
                if done % config.checkpoint_every == 0 or done >= config.iterations:
                    session.checkpoint(state)
                progress.update(done, chunk.metrics, chunk.seconds)
            if received.received or done < config.iterations:
                session.checkpoint(state, wait=True)
                distributed.from_writer(None)  # a barrier: all processes must end within a few seconds
                saved = f"iteration {done} of {config.iterations} is saved"
                if (lost := cli.output_lost()) and not received.received:
                    raise cli.OutputLost(f"{lost}; {saved}")
                raise received.interrupted(saved)
    except NonFiniteError as error:
        raise stopped(config, session, error, debug_nans, console) from error


def report_void(config: TrainConfig, session: Session, chunk: Chunk, first: np.ndarray, console: Console) -> None:
    """Reports an iteration that was skipped because all of its episodes were void."""
    iteration, seed = chunk.start + int(first[0]), int(first[1]) if len(first) > 1 else None
    cause = None
    if jax.process_count() == 1:
        cause = why_void(session.built.algorithm, root_keys(config), iteration, chunk.state, seed)
    suffix = f": {cause}" if cause else ""
    talk.note(console, f"iteration {iteration}: every episode diverged{suffix}; such iterations are skipped")


def stopped(
    config: TrainConfig, session: Session, error: NonFiniteError, debug_nans: bool, console: Console
) -> RunStopped:
    """Logs the rows before the first non-finite number and returns the error to raise."""
    session.log(error.iteration - len(next(iter(error.metrics.values()))), error.metrics)
    text = f"stopped at {error}"
    if session.files is not None:
        checkpoints = session.files.checkpoints
        checkpoints.wait()
        last = checkpoints.iterations()[-1]
        text += f"; the last good checkpoint, of iteration {last}, is in {checkpoints.directory}"
    distributed.from_writer(None)  # a barrier: all processes must end within a few seconds
    if error.metric == "diverged_episodes":  # caused by the environment, not by an operation
        return RunStopped(
            f"{text}; repair the environment, which mrl.envs.check tells more of, or go on without such iterations by "
            f"--resume --override {_tolerant(config)}"
        )
    if not debug_nans:
        return RunStopped(
            f"{text}; --resume --debug-nans finds the operation, and --resume --override {_tolerant(config)} goes on "
            "without such updates"
        )
    with talk.status(console, "looking for the operation, one by one; this can take minutes"):
        operation = _operation(config, session, error)
    return RunStopped(f"{text}; {operation or 'no operation yields a NaN, so a number overflowed to infinity'}")


def _tolerant(config: TrainConfig) -> str:
    """Flags with which the run would not have stopped: it aborted, or had undone as many updates as it may."""
    return "--on-nonfinite skip" if config.on_nonfinite == "abort" else f"--patience {10 * config.patience}"


def _operation(config: TrainConfig, session: Session, error: NonFiniteError) -> str | None:
    keys, state = streams(root_keys(config)).train, distributed.gather(error.state)
    if error.seed is not None:
        keys, state = keys[error.seed], jax.tree.map(lambda leaf: leaf[error.seed], state)
    # The failed update was undone, so this is the state before it.
    before = unguarded(MetaState(state.params, state.opt_state, state.iteration - 1))
    key = jax.random.fold_in(keys, error.iteration)
    return first_nan(session.built.algorithm, key, before)
