"""The two actions of the scripts: a training run from start (or resume) to its evaluation, and an evaluation alone."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from metarl_jax.evaluation import evaluate
from metarl_jax.runs import config as configs
from metarl_jax.runs import reports
from metarl_jax.runs.checkpoints import Checkpoints
from metarl_jax.runs.cli import RunStopped, user_errors
from metarl_jax.runs.config import Built, TrainConfig
from metarl_jax.runs.logging import Logger, TableLogger, TensorBoardLogger, WandbLogger, rows
from metarl_jax.runs.progress import TrainingProgress, duration, quantity
from metarl_jax.training import NonFiniteError, streams, train
from metarl_jax.types import MetaState


def read_config(folder: Path) -> TrainConfig:
    """The configuration of a run folder, its `folder` set to where it is now.

    Raises:
        ValueError: the folder is no run folder, or its config.json cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        what = "has no config.json, so it is no run folder" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}; experiments/train.py makes one")
    return dataclasses.replace(configs.from_json(path.read_text(encoding="utf-8"), str(path)), folder=str(folder))


def _write_config(config: TrainConfig, folder: Path) -> None:
    temporary = folder / "config.json.tmp"
    temporary.write_text(configs.to_json(config), encoding="utf-8")
    os.replace(temporary, folder / "config.json")


def _initial_state(built: Built, seed: int) -> MetaState:
    return jax.jit(built.algorithm.init)(streams(jax.random.key(seed)).init)


def restore(config: TrainConfig) -> tuple[MetaState, list[str]]:
    """The newest whole checkpoint of a run, and what the user should be told of it.

    Raises:
        ValueError: there is none, or the folder's checkpoints are of another run.
    """
    checkpoints = Checkpoints(
        config.run_folder, config, _initial_state(configs.build(config), config.seed), keep=config.keep
    )
    try:
        return checkpoints.restore(), checkpoints.notes
    finally:
        checkpoints.close()


@dataclasses.dataclass
class _Session:
    """What a training run has open."""

    built: Built
    state: MetaState
    checkpoints: Checkpoints
    loggers: list[Logger]
    timing: TableLogger

    def close(self) -> None:
        for logger in (*self.loggers, self.timing):
            logger.flush()
            logger.close()
        self.checkpoints.close()


def _open(config: TrainConfig, folder: Path, resume: bool, console: Console) -> _Session:
    """Checks everything that can be checked before the folder is touched.

    Raises:
        ValueError: the configuration, or the state of the folder.
    """
    if resume:
        read_config(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the run folder {folder} exists; go on with it by --resume, or choose another by --folder")
    with console.status(f"setting up {config.task} and {config.algorithm}"):
        built = configs.build(config)
        state = _initial_state(built, config.seed)
    iteration = None
    if resume:
        checkpoints = Checkpoints(folder, config, state, keep=config.keep)
        state = checkpoints.restore()
        iteration = int(state.iteration)
        table = TableLogger(folder / "metrics.csv", iteration)
        checkpoints.discard_after(iteration)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(folder, config, state, keep=config.keep, create=True)
        checkpoints.save(state)  # so that there is one to go back to, whatever happens
        table = TableLogger(folder / "metrics.csv")
    _write_config(config, folder)
    loggers: list[Logger] = [table, TensorBoardLogger(folder / "tensorboard", iteration)]
    if config.wandb is not None:
        loggers.append(WandbLogger(config.wandb, folder, json.loads(configs.to_json(config))))
    for note in checkpoints.notes:
        console.print(f"[yellow]note:[/] {note}", soft_wrap=True)
    timing = folder / "timing.csv"
    return _Session(built, state, checkpoints, loggers, _Timing(timing))


class _Timing(TableLogger):
    """Chunks and their speed. Unlike metrics.csv it is a diary, so a resumed run appends to what is there."""

    def __init__(self, path: Path):
        if not path.exists():
            super().__init__(path)
            return
        self._header = path.read_text(encoding="utf-8").splitlines()[:1][0].split(",") if path.stat().st_size else None
        self._file = path.open("a", newline="", encoding="utf-8")


def train_run(config: TrainConfig, console: Console, *, resume: bool = False) -> Path:
    """Trains in a run folder, draws the learning curve and evaluates.

    Args:
        config: of the run.
        console: where progress is shown.
        resume: go on from the newest whole checkpoint of the folder.

    Returns:
        The run folder.

    Raises:
        UserError: bad input; nothing was overwritten.
        RunStopped: numbers that are not finite; the checkpoints before them are kept.
    """
    folder, began = config.run_folder, time.monotonic()
    with user_errors():
        session = _open(config, folder, resume, console)
    start = int(session.state.iteration)
    console.print(
        f"{'resuming' if resume else 'training'} {session.built.env.name} with {config.algorithm} on "
        f"{jax.device_count()} {jax.default_backend().upper()} device{'s'[: jax.device_count() > 1]}, iterations "
        f"{start} to {config.iterations}; results go to {folder}",
        soft_wrap=True,
        highlight=False,
    )
    try:
        steps = _train(config, session, console, start)
    except NonFiniteError as error:
        _log(session, error.iteration, error.metrics, backwards=True)
        last = session.checkpoints.iterations()[-1]
        raise RunStopped(
            f"stopped at {error}; the last good checkpoint, of iteration {last}, is in {session.checkpoints.directory}"
        ) from error
    finally:
        session.close()
    if start < config.iterations:
        seconds = time.monotonic() - began
        console.print(
            f"trained for {duration(seconds)} (h:mm:ss), {quantity(steps)} environment steps", highlight=False
        )
    from metarl_jax.runs import plots  # matplotlib loads while nobody waits for the first iteration

    title = f"{session.built.env.name}, {config.algorithm}"
    metrics = plots.read_metrics(folder / "metrics.csv")
    if any(name.startswith("return_") for name in metrics):
        plots.learning_curve(metrics, folder / "learning_curve.png", title=title, horizon=session.built.env.horizon)
    evaluate_run(folder, console)
    return folder


def _log(session: _Session, at: int, metrics: dict[str, Any], backwards: bool = False) -> None:
    """Logs a chunk that starts at iteration `at`, or, backwards, that ends just before it."""
    records = rows(metrics)
    for offset, record in enumerate(records):
        for logger in session.loggers:
            logger.log(at + offset - (len(records) if backwards else 0), record)
    for logger in session.loggers:
        logger.flush()


def _train(config: TrainConfig, session: _Session, console: Console, start: int) -> float:
    """The loop; returns the environment steps taken."""
    total = 0.0
    root = jax.random.key(config.seed)
    chunks = train(session.built.algorithm, root, config.iterations, state=session.state, chunk=config.checkpoint_every)
    with TrainingProgress(console, start, config.iterations) as progress:
        for chunk in chunks:
            done = int(chunk.state.iteration)
            _log(session, chunk.start, chunk.metrics)
            taken = float(chunk.metrics["environment_steps"].sum()) if "environment_steps" in chunk.metrics else 0.0
            total += taken
            session.timing.log(done, {"seconds": chunk.seconds, "environment_steps_per_second": taken / chunk.seconds})
            session.timing.flush()
            if done % config.checkpoint_every == 0 or done >= config.iterations:
                session.checkpoints.save(chunk.state)  # after the rows, so that it is never ahead of them
            progress.update(done, chunk.metrics, chunk.seconds)
    return total


def evaluate_run(
    folder: Path,
    console: Console,
    *,
    tasks: int | None = None,
    steps: int | None = None,
    inner_lr: tuple[float, ...] | None = None,
    seed: int | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """Evaluates the newest checkpoint of a run on held-out tasks; writes evaluation.json and adaptation.png.

    Those of another split than "test" are named after it: evaluation-ood.json, adaptation-ood.png.

    Args:
        folder: of the run.
        console: where the table is printed.
        tasks: held-out tasks; None is the run's `eval_tasks`.
        steps: L'; None is the run's `eval_steps`, or else the larger of 3 and the L of training.
        inner_lr: rates of the inner steps, the last repeated; None is those of training.
        seed: of the held-out tasks; None is the run's `eval_seed`.
        split: whose tasks, "test", "ood" or "train"; None is the run's `eval_split`.

    Returns:
        The content of evaluation.json.

    Raises:
        UserError: bad input; nothing was overwritten.
    """
    with user_errors(), console.status("setting up the evaluation"):
        config = read_config(folder)
        given = {"eval_tasks": tasks, "eval_steps": steps, "eval_seed": seed, "eval_split": split}
        given = {name: value for name, value in given.items() if value is not None}
        # `replace` runs the checks of the configuration on what was given here.
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **given))
        trained_steps = configs.algorithm_value(config, "adaptation_steps")
        steps = config.evaluation.eval_steps
        steps = max(3, trained_steps) if steps is None else steps
        state, notes = restore(config)
        if inner_lr is not None:
            options = dataclasses.replace(config.algorithm_options, inner_lr=tuple(inner_lr))
            config = dataclasses.replace(config, algorithm_options=options)
        # Burn-in and credit shape training's objective and nothing of the adaptation, and may not fit L'.
        split = config.evaluation.eval_split
        built = configs.build(config, split=split, adaptation_steps=steps, burn_in=None, credit=False)
        rates = configs.inner_rates(config, steps)
    for note in notes:
        console.print(f"[yellow]note:[/] {note}", soft_wrap=True)
    key = streams(jax.random.key(config.evaluation.eval_seed)).evaluate
    adapting = f"adapting to {config.evaluation.eval_tasks} {split} tasks, {steps} inner steps each"
    with user_errors(), console.status(adapting):
        results = evaluate(built.algorithm, built.env, key, state.params, num_tasks=config.evaluation.eval_tasks)
    name = built.env.name.replace(f" ({split})", "")  # the split has a column of its own
    report = reports.to_report(
        results,
        task=name,
        algorithm=config.algorithm,
        split=split,
        episodes_per_step=configs.algorithm_value(config, "episodes"),
        inner_lr=rates,
        trained_steps=trained_steps,
        iteration=int(state.iteration),
        seed=config.evaluation.eval_seed,
    )
    with user_errors():
        suffix = "" if split == "test" else f"-{split}"
        reports.write_report(report, folder / f"evaluation{suffix}.json")
    from metarl_jax.runs import plots

    title = f"{name}, {config.algorithm}: {config.evaluation.eval_tasks} {split} tasks"
    plots.adaptation(
        report["rows"],
        folder / f"adaptation{suffix}.png",
        title=title,
        horizon=built.env.horizon,
        trained_steps=trained_steps,
    )
    console.print(reports.table(report))
    _list_files(folder, console)
    return report


_FILES = {
    "config.json": "the configuration",
    "metrics.csv": "every metric of every iteration",
    "tensorboard": "the same for TensorBoard",
    "checkpoints": "θ and the optimiser's state",
    "learning_curve.png": "return before and after adaptation, during training",
    "adaptation.png": "return per inner step on held-out tasks",
    "evaluation.json": "every task's return, and their statistics",
    "adaptation-ood.png": "the same on the split ood",
    "evaluation-ood.json": "the same on the split ood",
    "adaptation-train.png": "the same on tasks of training",
    "evaluation-train.json": "the same on tasks of training",
}


def _list_files(folder: Path, console: Console) -> None:
    for name, meaning in _FILES.items():
        if (folder / name).exists():
            console.print(f"  {folder / name}  [dim]{meaning}[/]", soft_wrap=True, highlight=False)
