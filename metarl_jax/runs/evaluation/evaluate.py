"""The evaluation of a run on held-out tasks: a table, a file and a plot."""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from metarl_jax import algorithms, checks
from metarl_jax.base import MetaAlgorithm, TaskEnv, Trial
from metarl_jax.evaluation import Row, evaluate
from metarl_jax.inner import choose_baseline
from metarl_jax.runs import config as configs
from metarl_jax.runs.checkpoint.states import params_of_seeds, restore
from metarl_jax.runs.config.file import read_config
from metarl_jax.runs.console import talk
from metarl_jax.runs.console.cli import user_errors
from metarl_jax.runs.evaluation import reports
from metarl_jax.runs.memory import check_evaluation
from metarl_jax.runs.storage.folder import check_own
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
    deterministic: bool = False,
    build: configs.Build | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run on held-out tasks; writes evaluation.json and adaptation.png.

    If a run has several seeds, each is adapted to the same tasks with the same random draws. File names have a suffix
    for a split other than "test", a checkpoint other than the newest, a stage size or `inner_lr_beyond` other than the
    run's, and modes: evaluation-ood.json, adaptation-best.png, evaluation-40-episodes.json, evaluation-4000-steps.json,
    evaluation-constant.json, evaluation-deterministic.json.

    Args:
        folder: the run folder.
        console: where the table is printed.
        tasks: number of held-out tasks; None: the run's `eval_tasks`.
        steps: L'; None: the run's `eval_steps`, or else the larger of 3 and the L of training. If each stage is a
            single episode, the default is L: there, three extra steps could make the trial four times longer.
        burn_in: number of initial stages that do not count in J; None: the run's value, limited by the trial's length.
        episodes: N, episodes per stage; None: as in training.
        stage_steps: budget of environment steps per stage, which then has at most N episodes; None: the run's value.
        inner_lr: rates of the inner steps; None: as in training.
        inner_lr_beyond: rule for the rates of steps beyond those of training or of `inner_lr`; None: the run's rule,
            which is halving at each step unless set.
        seed: seed of the held-out tasks; None: the run's `eval_seed`.
        split: "test", "ood" or "train"; None: the run's `eval_split`.
        checkpoint: "newest", "best" or an iteration; see `metarl_jax.runs.checkpoint.states.restore`.
        deterministic: measure each stage by the modes of its policy, see `metarl_jax.evaluation.evaluate`.
        build: makes environment and algorithm of the configuration; None: by their names.

    Returns:
        The content of evaluation.json.

    Raises:
        UserError: bad input; nothing was overwritten.
    """
    overrides = {"inner_lr": None if inner_lr is None else tuple(inner_lr), "inner_lr_beyond": inner_lr_beyond}
    overrides |= {"episodes": episodes, "stage_steps": stage_steps}
    settings = {"eval_tasks": tasks, "eval_steps": steps, "eval_seed": seed, "eval_split": split}
    with user_errors(), talk.status(console, "setting up the evaluation"):
        check_own(folder)
        config = read_config(folder)
        state, notes = restore(config, checkpoint, build)
        plan = _planned(config, settings, overrides, burn_in, deterministic, build or configs.build)
    for note in notes:
        talk.note(console, note)
    results = _adapted(plan, state, console)
    report = reports.to_report(results, plan.setting(int(np.max(state.iteration))))
    suffix = "" if checkpoint == "newest" else f"-{checkpoint}"
    suffix = ("" if plan.split == "test" else f"-{plan.split}") + suffix + plan.suffix
    with user_errors():
        reports.write_report(report, folder / f"evaluation{suffix}.json")
    _draw(plan, report, folder / f"adaptation{suffix}.png")
    console.print(reports.table(report))
    if (budget := report["stage_steps"]) and (np.diff(report["rows"]["adapted"]["environment_steps"]) < budget).any():
        talk.note(console, f"not every stage reached {budget} steps within its episodes; more --episodes would")
    _list_files(folder, console)
    return report


@dataclasses.dataclass(frozen=True)
class _Plan:
    """An evaluation that is possible."""

    config: configs.TrainConfig
    """the run's, with what was changed for the evaluation"""
    built: configs.Built
    """its environment, of the split, and algorithm"""
    steps: int
    """L'"""
    stages: int
    burn_in: int
    episodes: int
    """N"""
    trained_steps: int
    trained_stages: int
    inner_lr: list[float]
    deterministic: bool
    suffix: str
    """of the file names: what differs from the run's own settings"""

    @property
    def split(self) -> str:
        return self.config.evaluation.eval_split

    @property
    def env_name(self) -> str:
        return self.built.env.name.replace(f" ({self.split})", "")  # the split has a separate column

    def setting(self, iteration: int) -> reports.Setting:
        return reports.Setting(
            task=self.env_name,
            algorithm=self.config.algorithm,
            split=self.split,
            episodes_per_step=self.episodes,
            stage_steps=self.config.algorithm_options.stage_steps,
            inner_lr=self.inner_lr,
            inner_lr_beyond=configs.algorithm_value(self.config, "inner_lr_beyond"),
            burn_in=self.burn_in,
            trained_steps=self.trained_steps,
            trained_stages=self.trained_stages,
            iteration=iteration,
            seed=self.config.evaluation.eval_seed,
            deterministic=self.deterministic,
        )


def _planned(
    config: configs.TrainConfig,
    settings: dict[str, Any],
    overrides: dict[str, Any],
    burn_in: int | None,
    deterministic: bool,
    build: configs.Build,
) -> _Plan:
    """The evaluation of a run with other settings of the evaluation, and other options of its algorithm.

    Raises:
        ValueError: it is not possible.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    drawn = config.evaluation.eval_seed
    # `replace` validates the given values.
    config = dataclasses.replace(configs.folded(config), evaluation=dataclasses.replace(config.evaluation, **settings))
    trained_stages, trained_episodes = _sizes(*build(config))
    trained_steps = configs.algorithm_value(config, "adaptation_steps")
    if trained_steps is None:  # of an algorithm of the user's own without this option
        trained_steps = trained_stages - 1
    usual = configs.usual_steps(trained_steps, trained_episodes)
    steps = usual if config.evaluation.eval_steps is None else config.evaluation.eval_steps
    stages = trained_stages // (trained_steps + 1) * (steps + 1)
    counted = _burn_in(config, burn_in, stages)
    episodes, stage_steps, rule = (overrides[name] for name in ("episodes", "stage_steps", "inner_lr_beyond"))
    own = configs.algorithm_value(config, "inner_lr")
    suffix = "" if episodes in (None, trained_episodes) else f"-{episodes}-episodes"
    suffix += "" if stage_steps in (None, config.algorithm_options.stage_steps) else f"-{stage_steps}-steps"
    suffix += "" if rule in (None, configs.algorithm_value(config, "inner_lr_beyond")) else f"-{rule}"
    rates = overrides["inner_lr"]
    suffix += "" if rates in (None, own, (own,)) else f"-rates-{_rates_in_a_name(rates)}"
    suffix += "" if settings.get("eval_seed", drawn) == drawn else f"-tasks-{settings['eval_seed']}"
    suffix += "-deterministic" if deterministic else ""
    if episodes or stage_steps:
        overrides = overrides | {"baseline": _baseline_of_training(config, build)}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    config = dataclasses.replace(config, algorithm_options=dataclasses.replace(config.algorithm_options, **overrides))
    built = build(config, split=config.evaluation.eval_split)
    stage_episodes = _sizes(*built)[1]
    check_evaluation(built, config, stage_episodes)
    if episodes not in (None, stage_episodes):
        raise ValueError(f"a stage of {config.algorithm} is one episode; leave episodes out, and choose steps")
    return _Plan(
        config=config,
        built=built,
        steps=steps,
        stages=stages,
        burn_in=counted,
        episodes=trained_episodes if episodes is None else episodes,
        trained_steps=trained_steps,
        trained_stages=trained_stages,
        inner_lr=configs.inner_rates(config, steps),
        deterministic=deterministic,
        suffix=suffix,
    )


def _rates_in_a_name(rates: Sequence[float]) -> str:
    """All of a few rates; of more the first and the last, and a number that tells them from others."""
    words = [str(float(rate)) for rate in rates]
    all_of_them = "_".join(words)
    if len(words) <= 4:
        return all_of_them
    return f"{words[0]}_to_{words[-1]}_{zlib.crc32(all_of_them.encode()):08x}"


def _adapted(plan: _Plan, state: Any, console: Console) -> dict[int, dict[str, Row]]:
    """Training seed → rows."""
    config = plan.config
    size = reports.stage_in_words(plan.episodes, config.algorithm_options.stage_steps)
    trials = f"{plan.stages} stages of {size}"
    adapting = f"adapting to {config.evaluation.eval_tasks} {plan.split} tasks, {trials} each"
    key = streams(jax.random.key(config.evaluation.eval_seed)).evaluate
    sizes = {"num_tasks": config.evaluation.eval_tasks, "steps": plan.steps, "burn_in": plan.burn_in}
    with user_errors(), talk.status(console, adapting):
        results = [
            evaluate(plan.built.algorithm, plan.built.env, key, theta, **sizes, deterministic=plan.deterministic)
            for theta in params_of_seeds(state, config.seeds)
        ]
    return dict(zip(config.all_seeds, results, strict=True))


def _draw(plan: _Plan, report: dict[str, Any], path: Path) -> None:
    from metarl_jax.runs.pictures import plots

    episodes_before = report["rows"]["adapted"]["episodes"]
    title = f"{plan.env_name}, {plan.config.algorithm}: {plan.config.evaluation.eval_tasks} {plan.split} tasks"
    title += ", by modes" if plan.deterministic else ""
    if in_words := reports.rates_in_words(plan.inner_lr):
        title += f"\n{in_words}"
    plots.adaptation(
        report["rows"],
        path,
        title=title,
        horizon=plan.built.env.horizon,
        trained_episodes=episodes_before[plan.trained_stages - 1] if plan.trained_stages <= len(episodes_before) else 0,
        seeds=plan.config.seeds,
    )


def _baseline_of_training(config: configs.TrainConfig, build: configs.Build) -> str | None:
    """The baseline selected by the sizes of training, which other sizes might change; None: none was selected."""
    chosen = config.algorithm_options.baseline
    if chosen is not None or algorithms.options(config.algorithm).get("baseline", "none") is not None:
        return chosen
    if configs.algorithm_value(config, "advantage") != "gae":
        return chosen
    names = ("tasks", "episodes", "adaptation_steps", "stage_steps")
    env = build(config).env
    horizon = configs.algorithm_value(config, "horizon") or env.horizon
    trial = Trial(**{name: configs.algorithm_value(config, name) for name in names}, horizon=horizon)
    return choose_baseline(None, env.observation_size, trial)


def _sizes(env: TaskEnv, algorithm: MetaAlgorithm) -> tuple[int, int]:
    """S and N of the result of `adapt`, without compilation."""

    def returns(key):
        return algorithm.adapt(key, algorithm.init(key).params, env.sample_task(key)).returns

    return jax.eval_shape(returns, jax.random.key(0)).shape


def _burn_in(config: configs.TrainConfig, requested: int | None, stages: int) -> int:
    """Number of stages of the evaluation that do not count; by default the run's value, limited by the trial's length.

    Raises:
        ValueError: no stage would count.
    """
    if requested is None:
        trained = configs.algorithm_value(config, "burn_in")
        return stages - 1 if trained is None else min(trained, stages - 1)
    if checks.integer("burn_in", requested, 0) >= stages:
        raise ValueError(
            f"burn_in is {requested}; with {stages} stages it must lie in 0..{stages - 1}, since one must count"
        )
    return requested


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
            what = what.replace("rates-", "rates ").replace("tasks-", "tasks of seed ")
            files[path] = f"the same: {what.replace('-', ', ')}"
    for path, meaning in files.items():
        if path.exists():
            talk.file(console, path, meaning)
