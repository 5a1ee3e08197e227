"""The configuration of a run, set by the command line and recorded in `config.json`.

This module does not import JAX, so that `--help` is fast.
"""

import ast
import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metarl_jax.checks import integer, positive, seed, unknown
from metarl_jax.runs.config.options import FLAG_NAMES, AlgorithmConfig, PolicyConfig

if typing.TYPE_CHECKING:
    from metarl_jax.base import MetaAlgorithm, TaskEnv


SPLITS = ("train", "test", "ood")
"""The same as `metarl_jax.envs.SPLITS`, whose module imports JAX."""

OUTER_LR_SCHEDULES = ("constant", "linear", "cosine")

ON_NONFINITE = ("abort", "skip", "rollback")
"""The same as `metarl_jax.guard.ON_NONFINITE`, whose module imports JAX."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Evaluation at the end of training."""

    eval_tasks: int = 40
    """held-out tasks"""
    eval_steps: int | None = None
    """adaptation steps, may exceed those of training (None: the larger of 3 and L, or L where stages are single
    episodes)"""
    eval_seed: int = 0
    """seed of the held-out tasks; training uses another random stream"""
    eval_split: str = "test"
    """split of the tasks: test, the training distribution; ood, tasks outside of it; or train"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that determines a run, and its folder."""

    task: str = "reacher-goal"
    """task family"""
    algorithm: str = "promp"
    """meta-learning algorithm"""
    preset: str | None = None
    """named settings that the other options override"""
    backend: str | None = None
    """physics of Brax tasks: spring, generalized, positional or mjx (None: the task's default)"""
    horizon: int | None = None
    """T, environment steps per episode (None: the task's default)"""
    reveal_task: bool = False
    """put the task into the observation: with the algorithm pretrain, the oracle to compare with"""
    fix_task: int | None = None
    """one task instead of a distribution, in training and evaluation: the one that this seed draws (None: all tasks)"""
    env_option: tuple[str, ...] = ()
    """further options of the task family, as NAME=VALUE"""
    iterations: int = 200
    """meta-iterations"""
    outer_lr_schedule: str = "constant"
    """schedule of the outer rate over all --iterations: constant, or linear or cosine, which end at 0"""
    warmup: int = 0
    """first meta-iterations, over which the outer rate rises from 0"""
    seed: int = 0
    """seed of θ, tasks and episodes"""
    seeds: int = 1
    """independent runs trained in one program, of the seeds --seed, --seed + 1, …"""
    devices: int | None = None
    """devices that tasks and seeds are spread over (None: all there are, on a CPU one)"""
    on_nonfinite: str = "abort"
    """after an update that yields NaN or infinity: abort undoes it and stops, skip undoes it and continues, rollback
    restores the parameters of the last checkpoint"""
    patience: int = 10
    """consecutive updates of that kind after which skip and rollback stop too"""
    checkpoint_every: int = 25
    """iterations between checkpoints"""
    keep: int = 3
    """newest checkpoints to keep, in addition to the one with the highest return after adaptation"""
    folder: str | None = None
    """the run's folder (None: runs/TASK-ALGORITHM-SEED)"""
    wandb: str | None = None
    """also log to this Weights & Biases project (needs metarl-jax[wandb])"""
    own: tuple[str, ...] = ()
    """no flag: what `metarl_jax.runs.train` was given as Python objects, such as the environment and the policy"""
    algorithm_options: AlgorithmConfig = dataclasses.field(default_factory=AlgorithmConfig)
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def __post_init__(self):
        for name in ("iterations", "checkpoint_every", "keep", "seeds", "patience"):
            integer(name, getattr(self, name))
        if self.fix_task is not None:
            seed("fix_task", self.fix_task)
        if seed("seed", self.seed) + self.seeds > 2**32:
            raise ValueError(f"seed is {self.seed}; with its {self.seeds} seeds it must stay below 2**32")
        if self.devices is not None:
            integer("devices", self.devices, 1)
        if self.outer_lr_schedule not in OUTER_LR_SCHEDULES:
            raise unknown("outer_lr_schedule", self.outer_lr_schedule, OUTER_LR_SCHEDULES)
        if integer("warmup", self.warmup, 0) >= self.iterations and self.warmup:
            raise ValueError(f"warmup is {self.warmup}; it must be less than the {self.iterations} iterations")
        if self.on_nonfinite not in ON_NONFINITE:
            raise unknown("on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        integer("eval_tasks", self.evaluation.eval_tasks, 2)
        seed("eval_seed", self.evaluation.eval_seed)
        if self.evaluation.eval_split not in SPLITS:
            raise unknown("eval_split", self.evaluation.eval_split, SPLITS)
        if self.evaluation.eval_steps is not None:
            integer("eval_steps", self.evaluation.eval_steps, 0)
        for name in ("folder", "wandb"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is ''; give --{name} a name, or leave it out")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """`seed`, `seed` + 1, …, one for each of `seeds`."""
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def run_folder(self) -> Path:
        """`folder`, or the one that task, algorithm and seed name."""
        return Path(self.folder or f"runs/{self.task}-{self.algorithm}-{self.seed}")


class Built(NamedTuple):
    """What a configuration describes."""

    env: "TaskEnv"
    algorithm: "MetaAlgorithm"


Build = Callable[..., Built]
"""``(config, split="train", **overrides) → Built``: `build`, which finds everything by its name, or one like it"""


_SET_BY = {"policy": "--hidden, --activation, --init-std, …", "env": "--task"}
ENV_SET_BY = {"name": "the family's name", "split": "--split", "backend": "--backend", "horizon": "--horizon"}
"""What is no option of a family, and what sets it."""


def parse_options(flag: str, pairs: tuple[str, ...], set_by: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Parses options of the form NAME=VALUE. A value is a Python literal or else a word.

    Args:
        flag: name of the flag, for errors.
        pairs: values of the flag.
        set_by: names that have a flag of their own → that flag.

    Raises:
        ValueError: a pair has another form, repeats a name, or names an option that has a flag.
    """
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (equals and name.isidentifier()):
            example = "remat=True" if flag == "option" else "action_scale=10.0"
            raise ValueError(f"--{flag} is {pair!r}; it must be NAME=VALUE, such as {example}")
        if set_by and name in set_by:
            raise ValueError(f"--{flag} is {pair!r}; {name} is set by {set_by[name]}")
        if name in options:
            raise ValueError(f"--{flag} is {pair!r}, and {name} was given before; give it once")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # not a Python literal, so a bare word such as a part's name
            options[name] = text
    return options


def _given(options: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if value is not None and name != "option"}


def algorithm_options(config: TrainConfig) -> dict[str, Any]:
    """The algorithm's options that differ from its own defaults.

    Raises:
        ValueError: `option` is malformed, or names what has a value already.
    """
    own, further = _given(config.algorithm_options), parse_options("option", config.algorithm_options.option, _SET_BY)
    for name in own.keys() & further.keys():
        flag = FLAG_NAMES.get(name, name).replace("_", "-")
        raise ValueError(
            f"--option sets {name} to {further[name]!r}, and it is {own[name]!r} by --{flag} or the "
            "preset; set it by its flag alone"
        )
    options = own | further
    return {name: _number(value) if name in ("inner_lr", "std_lr") else value for name, value in options.items()}


def _number(rates: Any) -> Any:
    """A single rate as a number."""
    return rates[0] if isinstance(rates, tuple) and len(rates) == 1 else rates


def build(
    config: TrainConfig, split: str = "train", *, objects: Mapping[str, Any] | None = None, **overrides: Any
) -> Built:
    """Environment and algorithm of a configuration.

    Args:
        config: of the run.
        split: whose tasks the environment draws.
        objects: options that the configuration cannot hold; it names them in `own`.
        **overrides: algorithm options that replace the configuration's; None goes back to the default.

    Raises:
        ValueError: a name is unknown or a value is out of range, or the run has objects that no name stands for.
    """
    if set(config.own) != set(objects or {}):
        raise ValueError(
            f"a program made this run, with objects of its own ({', '.join(config.own)}), which its folder does not "
            f"hold; the same call of metarl_jax.runs.train goes on with it, and metarl_jax.load takes them: "
            f"load(folder, {', '.join(f'{name}=...' for name in config.own)})"
        )
    from metarl_jax import algorithms, envs  # heavy, and not needed to show a help text

    algorithms.options(config.algorithm)  # a wrong name should not have to wait for a simulator to load
    env_options = parse_options("env-option", config.env_option, ENV_SET_BY)
    env_options |= {"backend": config.backend, "horizon": config.horizon}
    env = envs.make(config.task, split=split, **env_options)
    if config.fix_task is not None:
        import jax

        training = envs.make(config.task, **env_options)
        env = envs.fix_task(env, training.sample_task(jax.random.key(config.fix_task)))
    env = envs.reveal_task(env) if config.reveal_task else env
    return with_env(config, env, objects, **overrides)


def with_env(config: TrainConfig, env: "TaskEnv", objects: Mapping[str, Any] | None = None, **overrides: Any) -> Built:
    """An environment and the algorithm of a configuration for it.

    Args:
        config: of the run.
        env: the environment.
        objects: options, the policy too, that no configuration can hold; they replace the configuration's.
        **overrides: algorithm options that replace both; None goes back to the default.

    Raises:
        ValueError: a name is unknown or a value is out of range.
    """
    from metarl_jax import algorithms

    def given(options: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if value is not None}

    options = {"policy": _given(config.policy)} | given(algorithm_options(config) | _scheduled_rate(config))
    options |= dict(objects or {}) | given(overrides)
    return Built(env, algorithms.make(config.algorithm, env, **options))


def _scheduled_rate(config: TrainConfig) -> dict[str, Any]:
    """The option `outer_lr` as a schedule of outer steps, of which a meta-iteration may take several; {} of none.

    Raises:
        ValueError: the algorithm has no rate to schedule, or an optimiser of the user's own.
    """
    if config.outer_lr_schedule == "constant" and not config.warmup:
        return {}
    import optax

    from metarl_jax import algorithms

    options = algorithms.ALGORITHMS[config.algorithm].take(**algorithm_options(config))
    rate = getattr(options, "outer_lr", None)
    if rate is None:
        raise ValueError(f"{config.algorithm} has no outer rate; leave --outer-lr-schedule and --warmup out")
    positive("outer_lr", rate)
    each = getattr(options, "steps_per_update", 1)  # a plain function that was registered has none
    rising, falling = config.warmup * each, (config.iterations - config.warmup) * each
    then = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, falling),
        "cosine": optax.cosine_decay_schedule(rate, falling),
    }[config.outer_lr_schedule]
    if rising:
        then = optax.join_schedules([optax.linear_schedule(0.0, rate, rising), then], [rising])
    return {"outer_lr": then}


def inner_rates(config: TrainConfig, steps: int) -> list[float]:
    """The rates of `steps` inner steps of an evaluation; none where the algorithm has no inner rate."""
    from metarl_jax import inner

    rates = algorithm_value(config, "inner_lr")
    if rates is None:
        return []
    trained, rule = (algorithm_value(config, name) for name in ("adaptation_steps", "inner_lr_beyond"))
    return inner.taken(rates, steps, trained, "constant" if rule is None else rule)


def algorithm_value(config: TrainConfig, option: str) -> Any:
    """What an algorithm's option is in this run: as configured, else the algorithm's default, else None.

    None too where the option is an object, which the configuration does not hold.
    """
    if option in config.own:
        return None
    from metarl_jax import algorithms

    return algorithm_options(config).get(option, algorithms.options(config.algorithm).get(option))
