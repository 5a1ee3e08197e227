"""The evaluation of a run on held-out tasks: a table, a file and a picture."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from metarl_jax import algorithms, checks
from metarl_jax.base import MetaAlgorithm, TaskEnv, Trial
from metarl_jax.evaluation import evaluate
from metarl_jax.inner import choose_baseline
from metarl_jax.runs import config as configs
from metarl_jax.runs import reports, talk
from metarl_jax.runs.cli import user_errors
from metarl_jax.runs.config_file import read_config
from metarl_jax.runs.folder import check_own
from metarl_jax.runs.memory import check_evaluation
from metarl_jax.runs.states import params_of_seeds, restore
from metarl_jax.training import streams


def evaluate_run(
    folder: Path,
    console: Console,
    *,
    tasks: int | None = None,
    steps: int | None = None,
    burn_in: int | None = None,
    episodes: int | None = None,
    stage_steps: int | None = None,
    inner_lr: tuple[float, ...] | None = None,
    inner_lr_beyond: str | None = None,
    seed: int | None = None,
    split: str | None = None,
    checkpoint: str = "newest",
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run on held-out tasks; writes evaluation.json and adaptation.png.

    Of a run of several seeds each is adapted to the same tasks with the same draws.
    Those of another split than "test", of another checkpoint than the newest, of stages of another size or of another
    `inner_lr_beyond` than the run's, are named after it: evaluation-ood.json, adaptation-best.png,
    evaluation-40-episodes.json, evaluation-4000-steps.json, evaluation-constant.json.

    Args:
        folder: of the run.
        console: where the table is printed.
        tasks: held-out tasks; None is the run's `eval_tasks`.
        steps: L'; None is the run's `eval_steps`, or else the larger of 3 and the L of training. Where each stage is a
            single episode it is L: there a trial is one life, which three steps more may make four times as long.
        burn_in: stages that do not count in J; None is the run's own, as far as the trial reaches.
        episodes: N, episodes of a stage; None is those of training.
        stage_steps: a budget of environment steps of a stage, which then has at most N episodes; None is the run's.
        inner_lr: rates of the inner steps; None is those of training.
        inner_lr_beyond: how they go on in further steps than those of training, or than those given here; None is the
            run's own rule, which halves them at every step unless set.
        seed: of the held-out tasks; None is the run's `eval_seed`.
        split: whose tasks, "test", "ood" or "train"; None is the run's `eval_split`.
        checkpoint: "newest", "best" or an iteration; see `metarl_jax.runs.states.restore`.

    Returns:
        The content of evaluation.json.

    Raises:
        UserError: bad input; nothing was overwritten.
    """
    with user_errors(), talk.status(console, "setting up the evaluation"):
        check_own(folder)
        config = read_config(folder)
        given = {"eval_tasks": tasks, "eval_steps": steps, "eval_seed": seed, "eval_split": split}
        given = {name: value for name, value in given.items() if value is not None}
        # `replace` runs the checks of the configuration on what was given here.
        config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **given))
        trained_steps = configs.algorithm_value(config, "adaptation_steps")
        trained_stages, trained_episodes = _sizes(*configs.build(config))
        own, usual = config.evaluation.eval_steps, trained_steps if trained_episodes == 1 else max(3, trained_steps)
        new_steps = usual if own is None else own
        stages = trained_stages // (trained_steps + 1) * (new_steps + 1)
        counted = _burn_in(config, burn_in, stages)
        state, notes = restore(config, checkpoint)
        own_rule = configs.algorithm_value(config, "inner_lr_beyond")
        own_budget = config.algorithm_options.stage_steps
        given = {"inner_lr": None if inner_lr is None else tuple(inner_lr), "inner_lr_beyond": inner_lr_beyond}
        given |= {"episodes": episodes, "stage_steps": stage_steps}
        if given["episodes"] or given["stage_steps"]:
            given["baseline"] = _baseline_of_training(config)
        given = {name: value for name, value in given.items() if value is not None}
        config = dataclasses.replace(config, algorithm_options=dataclasses.replace(config.algorithm_options, **given))
        split = config.evaluation.eval_split
        built = configs.build(config, split=split)
        together = _sizes(*built)[1]
        check_evaluation(built, config, together)
        if episodes not in (None, together):
            raise ValueError(f"a stage of {config.algorithm} is one episode; leave episodes out, and choose steps")
        rates = configs.inner_rates(config, new_steps)
        size = reports.stage_in_words(
            trained_episodes if episodes is None else episodes, config.algorithm_options.stage_steps
        )
    for note in notes:
        talk.note(console, note)
    key = streams(jax.random.key(config.evaluation.eval_seed)).evaluate
    trials = f"{stages} stages of {size}"
    adapting = f"adapting to {config.evaluation.eval_tasks} {split} tasks, {trials} each"
    with user_errors(), talk.status(console, adapting):
        of_seeds = [
            evaluate(
                built.algorithm,
                built.env,
                key,
                theta,
                num_tasks=config.evaluation.eval_tasks,
                steps=new_steps,
                burn_in=counted,
            )
            for theta in params_of_seeds(state, config.seeds)
        ]
    name = built.env.name.replace(f" ({split})", "")  # the split has a column of its own
    report = reports.to_report(
        dict(zip(config.all_seeds, of_seeds, strict=True)),
        task=name,
        algorithm=config.algorithm,
        split=split,
        episodes_per_step=trained_episodes if episodes is None else episodes,
        stage_steps=config.algorithm_options.stage_steps,
        inner_lr=rates,
        inner_lr_beyond=configs.algorithm_value(config, "inner_lr_beyond"),
        burn_in=counted,
        trained_steps=trained_steps,
        trained_stages=trained_stages,
        iteration=int(np.max(state.iteration)),
        seed=config.evaluation.eval_seed,
    )
    with user_errors():
        suffix = ("" if split == "test" else f"-{split}") + ("" if checkpoint == "newest" else f"-{checkpoint}")
        suffix += "" if episodes in (None, trained_episodes) else f"-{episodes}-episodes"
        suffix += "" if stage_steps in (None, own_budget) else f"-{stage_steps}-steps"
        suffix += "" if inner_lr_beyond in (None, own_rule) else f"-{inner_lr_beyond}"
        reports.write_report(report, folder / f"evaluation{suffix}.json")
    from metarl_jax.runs import plots

    seen = report["rows"]["adapted"]["episodes"]
    title = f"{name}, {config.algorithm}: {config.evaluation.eval_tasks} {split} tasks"
    if in_words := reports.rates_in_words(rates):
        title += f"\n{in_words}"
    plots.adaptation(
        report["rows"],
        folder / f"adaptation{suffix}.png",
        title=title,
        horizon=built.env.horizon,
        trained_episodes=seen[trained_stages - 1] if trained_stages <= len(seen) else 0,
        seeds=config.seeds,
    )
    console.print(reports.table(report))
    if (budget := report["stage_steps"]) and min(np.diff(report["rows"]["adapted"]["environment_steps"])) < budget:
        talk.note(console, f"not every stage reached {budget} steps within its episodes; more --episodes would")
    _list_files(folder, console)
    return report


def _baseline_of_training(config: configs.TrainConfig) -> str | None:
    """The baseline that the sizes of training chose, which those of an evaluation might not; None: none was chosen."""
    own = config.algorithm_options.baseline
    if own is not None or algorithms.options(config.algorithm).get("baseline", "none") is not None:
        return own
    if configs.algorithm_value(config, "advantage") != "gae":
        return own
    names = ("tasks", "episodes", "adaptation_steps", "stage_steps")
    env = configs.build(config).env
    horizon = configs.algorithm_value(config, "horizon") or env.horizon
    trial = Trial(**{name: configs.algorithm_value(config, name) for name in names}, horizon=horizon)
    return choose_baseline(None, env.observation_size, trial)


def _sizes(env: TaskEnv, algorithm: MetaAlgorithm) -> tuple[int, int]:
    """S and N of what `adapt` returns; nothing is compiled."""

    def returns(key):
        return algorithm.adapt(key, algorithm.init(key).params, env.sample_task(key)).returns

    return jax.eval_shape(returns, jax.random.key(0)).shape


def _burn_in(config: configs.TrainConfig, given: int | None, stages: int) -> int:
    """Stages of the evaluation that do not count; the run's own as far as the trial reaches.

    Raises:
        ValueError: the given number leaves none to count.
    """
    if given is None:
        own = configs.algorithm_value(config, "burn_in")
        return stages - 1 if own is None else min(own, stages - 1)
    if checks.integer("burn_in", given, 0) >= stages:
        raise ValueError(
            f"burn_in is {given}; with {stages} stages it must lie in 0..{stages - 1}, since one must count"
        )
    return given


_FILES = {
    "config.json": "the configuration",
    "metrics.csv": "every metric of every iteration",
    "tensorboard": "the same for TensorBoard",
    "checkpoints": "θ and the optimiser's state",
    "learning_curve.png": "return before and after adaptation, during training",
    "hyperparameters.png": "what θ meant, during training",
    "adaptation.png": "return against episodes seen, on held-out tasks",
    "evaluation.json": "every task's return, and their statistics",
}


def _list_files(folder: Path, console: Console) -> None:
    files = {folder / name: meaning for name, meaning in _FILES.items()}
    for name in ("adaptation", "evaluation"):
        for path in sorted(folder.glob(f"{name}-*")):
            what = path.stem.removeprefix(name + "-").replace("-episodes", " episodes").replace("-steps", " steps")
            files[path] = f"the same: {what.replace('-', ', ')}"
    for path, meaning in files.items():
        if path.exists():
            talk.file(console, path, meaning)
