"""What determines a run, and where it is. This module does not import JAX, so that `--help` is fast."""

import dataclasses
from pathlib import Path

from metarl_jax.checks import integer, one_of, seed
from metarl_jax.runs.config.options import AlgorithmConfig, PolicyConfig

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
    """physics of robots: spring, generalized, positional or mjx of Brax, or mujoco (None: the task's default)"""
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
    traced: tuple[str, ...] = ()
    """numbers among the algorithm's options that are arguments of the compiled programs, and no constants: runs that
    differ in nothing else are compiled once. Where such an option is no number, this changes nothing"""
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
        one_of("outer_lr_schedule", self.outer_lr_schedule, OUTER_LR_SCHEDULES)
        if integer("warmup", self.warmup, 0) >= self.iterations and self.warmup:
            raise ValueError(f"warmup is {self.warmup}; it must be less than the {self.iterations} iterations")
        one_of("on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        integer("eval_tasks", self.evaluation.eval_tasks, 2)
        seed("eval_seed", self.evaluation.eval_seed)
        one_of("eval_split", self.evaluation.eval_split, SPLITS)
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
