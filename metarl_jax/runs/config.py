"""The configuration of a run: what the command line sets, `config.json` records and a checkpoint belongs to.

Importing this module loads no JAX, so that a script's help text can answer at once.
"""

import ast
import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metarl_jax.checks import integer, seed, unknown

if typing.TYPE_CHECKING:
    from metarl_jax.base import MetaAlgorithm, TaskEnv


SPLITS = ("train", "test", "ood")
"""Those of `metarl_jax.envs.SPLITS`, which takes JAX to import."""

ON_NONFINITE = ("abort", "skip", "rollback")
"""Those of `metarl_jax.guard.ON_NONFINITE`, which takes JAX to import."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Policy network; None is the library's default."""

    hidden: tuple[int, ...] | None = None
    """sizes of the hidden layers (None: 64 64)"""
    activation: str | None = None
    """tanh or relu (None: tanh)"""
    init_std: float | None = None
    """standard deviation of the actions at initialisation, in units of the action (None: 1)"""
    min_std: float | None = None
    """smooth floor under that standard deviation (None: no floor)"""
    learn_std: bool | None = None
    """whether both loops move the standard deviation (None: True)"""
    context_size: int | None = None
    """components of a context beside the observation, which --fast-parameters context adapts (None: 5 in cavia, else
    none)"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """Inner and outer loop; None is the algorithm's own default."""

    tasks: int | None = None
    """B, tasks of one meta-iteration (None: 20)"""
    episodes: int | None = None
    """N, episodes per stage and task (None: 20)"""
    adaptation_steps: int | None = None
    """L, inner steps of one trial (None: 1)"""
    burn_in: int | None = None
    """stages that the objective does not count, 0 to L (None: L, so that only the last stage counts)"""
    inner_lr: tuple[float, ...] | None = None
    """rate of the inner steps, or one rate per step, of which the last repeats (None: 0.1; cavia: 1)"""
    std_lr: float | None = None
    """rate of the inner steps for the standard deviation (None: that of the others)"""
    inner_optimizer: str | None = None
    """update rule of the inner steps: sgd, momentum, adam, parameter_rates, tensor_rates or curvature (None: the
    algorithm's own, mostly sgd)"""
    fast_parameters: str | None = None
    """what the inner steps move: all, head or context (None: the algorithm's own, mostly all)"""
    surrogate: str | None = None
    """loss of an inner step: score_function, likelihood_ratio, dice or loaded_dice (None: the algorithm's own)"""
    credit: float | None = None
    """weight of the sampled update's score term, 1 for the unbiased gradient (None: 1 in e-maml, else none)"""
    advantage: str | None = None
    """advantage estimator of both loops: gae or returns (None: gae)"""
    baseline: str | None = None
    """what gae subtracts: linear_feature, linear_time, leave_one_out, previous_fit, value_network or zero (None:
    value_network in tmaml, else linear_feature)"""
    normalized: bool | None = None
    """whether gae brings each task's stage to mean 0 and standard deviation 1 (None: True)"""
    discount: float | None = None
    """γ of the advantage estimator (None: the estimator's own)"""
    lambda_: float | None = None
    """λ of generalised advantage estimation (None: the estimator's own)"""
    outer_lr: float | None = None
    """Adam's rate in the outer loop (all but maml-trpo; None: 0.001)"""
    epochs: int | None = None
    """Adam steps per meta-iteration (promp; None: 5)"""
    clip: float | None = None
    """range ε of the clipped ratio (promp; None: 0.3)"""
    inner_kl_weight: float | None = None
    """weight of the KL divergence before adaptation (promp; None: 0.0005)"""
    dice_lambda: float | None = None
    """how fast the second derivative forgets the past, 1 for never (loaded-dice; None: 0.9)"""
    sigma: float | None = None
    """standard deviation of the perturbations of θ (es-maml; None: 0.1)"""
    rank_shaping: bool | None = None
    """whether returns are replaced by their ranks (es-maml; None: True)"""
    max_kl: float | None = None
    """trust region, in nats (maml-trpo; None: 0.01)"""
    remat: bool | None = None
    """recompute inner steps in the backward pass, to save memory (None: False)"""
    task_chunk: int | None = None
    """tasks at a time, to save memory (None: all at once)"""
    option: tuple[str, ...] = ()
    """further options of the algorithm, as NAME=VALUE"""
    lifetime: int | None = None
    """updates after which an agent is renewed (lpg; None: 500)"""
    max_gradient_norm: float | None = None
    """norm that the meta-gradient is clipped to (lpg; None: 0.5)"""
    rule_size: int | None = None
    """LSTM units of the learned rule (lpg; None: 64)"""
    prediction_size: int | None = None
    """categories of an agent's prediction vector (lpg; None: 30)"""
    prediction_weight: float | None = None
    """weight of the predictions' KL divergence in an update (lpg; None: 0.5)"""
    policy_entropy_weight: float | None = None
    """outer weight of the policy's entropy after the updates (lpg; None: 0.01)"""
    prediction_entropy_weight: float | None = None
    """outer weight of the predictions' entropy after the updates (lpg; None: 0.001)"""
    policy_target_weight: float | None = None
    """outer weight of the squared policy targets (lpg; None: 0.001)"""
    prediction_target_weight: float | None = None
    """outer weight of the squared prediction targets (lpg; None: 0.001)"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Evaluation at the end of training."""

    eval_tasks: int = 40
    """held-out tasks"""
    eval_steps: int | None = None
    """adaptation steps, may exceed those of training (None: the larger of 3 and L)"""
    eval_seed: int = 0
    """seed of the held-out tasks, of a random stream that training never draws from"""
    eval_split: str = "test"
    """whose tasks: test, the training distribution; ood, tasks outside of it; or train"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that determines a run, and where it goes."""

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
    env_option: tuple[str, ...] = ()
    """further options of the task family, as NAME=VALUE"""
    iterations: int = 200
    """meta-iterations"""
    seed: int = 0
    """seed of θ, tasks and episodes"""
    seeds: int = 1
    """independent runs trained in one program, of the seeds --seed, --seed + 1, …"""
    devices: int | None = None
    """devices that tasks and seeds are spread over (None: all there are, on a CPU one)"""
    on_nonfinite: str = "abort"
    """what becomes of an update that yields NaN or infinity: abort undoes it and stops, skip undoes it and goes on,
    rollback goes back to the parameters of the last checkpoint"""
    patience: int = 10
    """such updates in a row after which skip and rollback stop too"""
    checkpoint_every: int = 25
    """iterations between checkpoints"""
    keep: int = 3
    """newest checkpoints to keep, beside the one with the highest return after adaptation"""
    folder: str | None = None
    """the run's folder (None: runs/TASK-ALGORITHM-SEED)"""
    wandb: str | None = None
    """also log to this Weights & Biases project (needs metarl-jax[wandb])"""
    algorithm_options: AlgorithmConfig = AlgorithmConfig()
    policy: PolicyConfig = PolicyConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self):
        for name in ("iterations", "checkpoint_every", "keep", "seeds", "patience"):
            integer(name, getattr(self, name))
        if seed("seed", self.seed) + self.seeds > 2**32:
            raise ValueError(f"seed is {self.seed}; with its {self.seeds} seeds it must stay below 2**32")
        if self.devices is not None:
            integer("devices", self.devices, 1)
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


_SET_BY = {"policy": "--hidden, --activation, --init-std, …", "env": "--task"}
ENV_SET_BY = {"name": "the family's name", "split": "--split", "backend": "--backend", "horizon": "--horizon"}
"""What is no option of a family, and what sets it."""


def parse_options(flag: str, pairs: tuple[str, ...], set_by: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Options given as NAME=VALUE, values read as Python literals or, failing that, as words.

    Args:
        flag: by which they were given.
        pairs: the values of the flag.
        set_by: names that it cannot set, and what does.

    Raises:
        ValueError: a pair is no such pair, repeats a name, or has one that belongs to a flag.
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
    """The algorithm's options that differ from its own defaults; a single inner rate as a number.

    Raises:
        ValueError: `option` is malformed, or names what has a value already.
    """
    own, further = _given(config.algorithm_options), parse_options("option", config.algorithm_options.option, _SET_BY)
    for name in own.keys() & further.keys():
        raise ValueError(
            f"--option sets {name} to {further[name]!r}, and it is {own[name]!r} by --{name.replace('_', '-')} or the "
            "preset; set it by its flag alone"
        )
    options = own | further
    rates = options.get("inner_lr")
    return options | ({"inner_lr": rates[0]} if isinstance(rates, tuple) and len(rates) == 1 else {})


def build(config: TrainConfig, split: str = "train", **overrides: Any) -> Built:
    """Environment and algorithm of a configuration.

    Args:
        config: of the run.
        split: whose tasks the environment draws.
        **overrides: algorithm options that replace the configuration's; None goes back to the default.

    Raises:
        ValueError: a name is unknown or a value is out of range.
    """
    from metarl_jax import algorithms, envs  # heavy, and not needed to show a help text

    algorithms.options(config.algorithm)  # a wrong name should not have to wait for a simulator to load
    env_options = parse_options("env-option", config.env_option, ENV_SET_BY)
    env = envs.make(config.task, split=split, backend=config.backend, horizon=config.horizon, **env_options)
    env = envs.reveal_task(env) if config.reveal_task else env
    options = algorithm_options(config) | overrides
    options = {name: value for name, value in options.items() if value is not None}
    return Built(env, algorithms.make(config.algorithm, env, policy=_given(config.policy), **options))


def inner_rates(config: TrainConfig, steps: int) -> list[float]:
    """The rates of `steps` inner steps, the last given one repeated."""
    rates = algorithm_value(config, "inner_lr")
    rates = () if rates is None else rates
    rates = [float(rate) for rate in (rates if isinstance(rates, tuple | list) else (rates,))]
    return (rates + rates[-1:] * steps)[:steps]


def algorithm_value(config: TrainConfig, option: str) -> Any:
    """What an algorithm's option is in this run: as configured, else the algorithm's default, else None."""
    from metarl_jax import algorithms

    return algorithm_options(config).get(option, algorithms.options(config.algorithm).get(option))
