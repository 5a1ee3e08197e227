"""The options of algorithms, as data: what several of them take, as structs from which each one's own derives.

A field's string is its documentation everywhere, see `metarl_jax.keywords`. None stands for a default that depends on
other values.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import optax

from metarl_jax import checks, inner, outer
from metarl_jax.base import (
    AdvantageEstimator,
    InnerOptimizer,
    MetaAlgorithm,
    Policy,
    Surrogate,
    TaskEnv,
    Trial,
)
from metarl_jax.curriculum import TaskSampler, with_sampler
from metarl_jax.inner.rates import Rate
from metarl_jax.inner.resolve import FastParameters
from metarl_jax.normalization import normalized
from metarl_jax.outer.optimizers import DEFAULT_RATE

Builder = Callable[[Rate], InnerOptimizer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """What every algorithm takes: the sizes of a trial, γ and λ, and how memory is saved."""

    kind: ClassVar[str] = "gradient"
    """what f_θ is: "gradient" steps from θ, a "memory", or a rule by which agents live, "life" """
    trials_per_task: ClassVar[int] = 1
    """trials of a meta-iteration in each of its tasks"""
    off: ClassVar[Mapping[str, Any]] = {
        "credit": 0,
        "credit_estimator": "return",
        "discount_states": False,
        "entropy_weight": 0,
        "fast_parameters": "all",
    }
    """values that an algorithm without the option may be given, since they ask for nothing"""

    tasks: int = 20
    """B, tasks per meta-iteration"""
    episodes: int = 20
    """N, episodes per stage and task"""
    adaptation_steps: int = 1
    """L, inner steps of a trial; 0 means none (a memory adapts without, see `rl2`)"""
    horizon: int | None = None
    """T, environment steps per episode; None means the environment's"""
    discount: float | None = None
    """γ of the advantage estimator; None means 0.99 for "gae" and 1 for "returns". Advantages hold γ^{k−t} and not γᵗ:
    the usual estimator, which is the gradient of no function where γ < 1"""
    lambda_: float | None = None
    """λ of generalised advantage estimation; None means 1"""
    normalized: bool | None = None
    """whether "gae" scales each task's stage to mean 0 and standard deviation 1; None means that it does"""
    average: str = "horizon"
    """what the sums over a stage's steps are divided by: "horizon", the N·T steps that its episodes had room for, so
    that `gradient` times T is the gradient of an episode's mean return; or "valid", the steps that they took, as in
    published codes"""
    normalize_observations: bool = False
    """shift and scale each component of the observations to mean 0 and standard deviation 1 of all training so far, see
    `metarl_jax.normalization`"""
    normalize_rewards: bool = False
    """divide rewards by the standard deviation of an episode's discounted reward so far, of all training so far"""
    remat: bool = False
    """recompute inner steps in the backward pass instead of storing their activations, which saves memory"""
    task_chunk: int | None = None
    """tasks at a time in both phases, which saves memory; None means all at once and, on a CPU, in the outer gradient
    as many as its caches hold"""

    def wrapped(self, build: Callable[[TaskEnv, Any], MetaAlgorithm], env: TaskEnv) -> MetaAlgorithm:
        """``build(env, self)`` with the normalisation that the options ask for.

        Raises:
            ValueError: a value is out of range.
        """
        observations = checks.boolean("normalize_observations", self.normalize_observations)
        rewards = checks.boolean("normalize_rewards", self.normalize_rewards)
        if not (observations or rewards):
            return build(env, self)
        discount = 0.99 if self.discount is None else checks.share("discount", self.discount)
        what = {"observations": observations, "rewards": rewards}
        return normalized(lambda env: build(env, self), env, discount=discount, **what)

    def trial(self, horizon: int, **sizes: Any) -> Trial:
        """The sizes of a trial in an environment of this horizon, and further ones; checked."""
        return Trial(
            tasks=self.tasks,
            episodes=self.episodes,
            adaptation_steps=self.adaptation_steps,
            horizon=horizon if self.horizon is None else self.horizon,
            **sizes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerOptions(TrialOptions):
    """Of algorithms whose tasks are new in each meta-iteration: what draws them."""

    task_sampler: TaskSampler | None = None
    """what draws the tasks of training, a curriculum; None means p(M). See `metarl_jax.curriculum`"""

    def wrapped(self, build: Callable[[TaskEnv, Any], MetaAlgorithm], env: TaskEnv) -> MetaAlgorithm:
        """As that of `TrialOptions`, with the task sampler around it."""
        wrap = super().wrapped
        if self.task_sampler is None:
            return wrap(build, env)
        return with_sampler(lambda env: wrap(build, env), env, self.task_sampler, self.tasks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DescentOptions:
    """How θ descends the outer loss, see `metarl_jax.outer.descent`."""

    outer_lr: outer.OuterRate = DEFAULT_RATE
    """Adam's rate in the outer loop, or a schedule of it, which counts outer steps"""
    outer_optimizer: optax.GradientTransformation | None = None
    """an optimizer of optax instead of Adam; it brings its own rate"""
    max_gradient_norm: float | None = None
    """outer gradients with a larger norm are scaled down to it; None leaves them"""

    def descent(self) -> optax.GradientTransformation:
        """The optimizer that these options describe."""
        return outer.descent(
            outer_lr=self.outer_lr, outer_optimizer=self.outer_optimizer, max_gradient_norm=self.max_gradient_norm
        )

    @property
    def steps_per_update(self) -> int:
        """Outer steps per meta-iteration, which is what a schedule of `outer_lr` counts."""
        return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerOptions(SamplerOptions):
    """An inner loop of policy-gradient steps."""

    policy: Policy | Mapping[str, Any] | None = None
    """π, or options of `metarl_jax.policies.mlp`, which makes it otherwise"""
    surrogate: str | Surrogate = "score_function"
    """inner loss: "score_function", "likelihood_ratio", "dice", "loaded_dice", or a function, see
    `metarl_jax.inner.SURROGATES`"""
    inner_optimizer: str | Builder = "sgd"
    """update rule of the inner steps: "sgd", "clipped_sgd", "momentum", "adam", "rmsprop", "parameter_rates",
    "tensor_rates", "curvature", or a function ``inner_lr → InnerOptimizer``, see `metarl_jax.inner.INNER_OPTIMIZERS`"""
    inner_lr: Rate = 0.1
    """α, one rate, one per inner step, of which the last serves all further steps of training, or a schedule: a
    function of the step's number 0, 1, 2, …"""
    inner_lr_beyond: str = "decay"
    """how α continues in more steps than those of training: "decay", which halves it at each step, "inverse_sqrt",
    for hundreds of steps, or "constant" """
    std_lr: Rate | None = None
    """α of the policy's standard deviation; None means `inner_lr`"""
    stage_steps: int | None = None
    """budget of environment steps per stage and task, as published samplers have it: as many whole episodes count as
    reach it, at most `episodes`; None means all of them"""
    advantage: str | AdvantageEstimator = "gae"
    """estimator of both loops: "gae", "returns", or a function of one task's trajectory, whose attribute `discount`
    is its γ, if it has one"""
    baseline: str | inner.Baseline | inner.Critic | None = None
    """V that "gae" subtracts: "linear_feature", "linear_time", "leave_one_out", "previous_fit", "value_network",
    "zero", a `Baseline` or a `Critic`; None means the first of linear_feature, linear_time and zero that the steps of
    a stage suffice for, see `metarl_jax.inner.choose_baseline`"""
    discount_states: bool = False
    """whether γᵗ weights the step at time t, in both loops and in the credit, so that J(θ) is the discounted return
    and `gradient` its gradient under the same conditions as without discount"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastOptions:
    """A choice of what the inner loop moves."""

    fast_parameters: FastParameters = "all"
    """what the inner steps move: "all", "head" (the last layer and the standard deviation), "context", or a function
    ``φ → a tree like φ`` of booleans"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BurnInOptions:
    """A choice of the stages that count."""

    burn_in: int | None = None
    """stages that the objective does not count, 0 to L; None means L, so that only the last one counts. Of a memory
    episodes, 0 to H − 1, and None means 0"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropyOptions:
    """An entropy bonus in the outer loss."""

    entropy_weight: float = 0.0
    """weight of the policies' entropy in the outer loss; 0 leaves it out"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(BurnInOptions, EntropyOptions):
    """An outer loss along the adaptation path."""

    multi_step_iterations: int | None = None
    """meta-iterations over which the weights of the counted stages before the last fall from equal to 0, as in MAML++;
    None keeps them equal. See `metarl_jax.outer.annealed_stages`"""
    credit: bool | float = False
    """weight of the sampled update's score term; True is 1, for the unbiased gradient"""
    credit_estimator: str = "return"
    """what that term weights an episode's score with: "return", that of the later stages, unbiased and noisy; or
    "influence", what the episode itself changed of it, see `metarl_jax.outer.CREDITS`"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientOptions(InnerOptions, FastOptions, ObjectiveOptions):
    """All that an algorithm of policy-gradient steps and an outer loss takes, apart from its outer optimizer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LifeOptions(TrialOptions, BurnInOptions, DescentOptions):
    """A population of agents that live on from one meta-iteration to the next: a trial is a window of L updates.

    `episodes` are environments side by side, `horizon` the steps of one rollout of them.
    """

    kind: ClassVar[str] = "life"
    burn_in: int | None = 1
    policy: Policy | Mapping[str, Any] | None = None
    """π, or options of `metarl_jax.policies.mlp`, which makes it otherwise"""
    inner_optimizer: str | Builder = "sgd"
    """update rule that carries an agent's updates out, see `metarl_jax.inner.INNER_OPTIMIZERS`"""
    inner_lr: Rate = 0.1
    """α, the rate of an agent's updates"""

    refused: ClassVar[Mapping[str, str]] = {
        "discount_states": "the stages of a life are pieces of episodes, which do not know their time t",
        "task_sampler": "it is for tasks that are new in each meta-iteration, and here agents live on; give the "
        "environment sample_tasks",
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryOptions(SamplerOptions, BurnInOptions, DescentOptions):
    """PPO on trials of sequential episodes of a policy with a memory, which is f_θ and acts at every step.

    A trial is H = (`adaptation_steps` + 1)·`episodes` sequential episodes, a stage each: S = H and N = 1. So it takes
    as many episodes of a task as a gradient-based algorithm with the same two options, and `adapt` with more of them is
    a longer trial.
    """

    kind: ClassVar[str] = "memory"
    tasks: int = 100
    episodes: int = 2
    adaptation_steps: int = 0
    burn_in: int | None = 0
    """K, episodes of a trial whose rewards do not count, 0 to H − 1; None means 0"""
    normalized: bool = True
    """whether the advantages of all tasks together are scaled to mean 0 and standard deviation 1, see
    `metarl_jax.outer.normalize_over_tasks`"""
    max_gradient_norm: float | None = 1.0
    advantage: str | AdvantageEstimator = "gae"
    """estimator along the whole trial: "gae" with the policy's own values, "returns", or a function of the trial as one
    episode, a `Trajectory` with leaves [1, H·T, ...]"""
    discount_states: bool = False
    """whether γᵗ weights the reward at time t of its episode, and nothing is discounted from one episode to the next:
    J(θ) is then the discounted return of the counted episodes"""
    epochs: int = 4
    """passes over the same data per meta-iteration"""
    minibatches: int | None = None
    """steps per pass over the data, each on as many whole tasks; it must divide `tasks`. None means 4, or less where
    that does not divide them"""
    clip: float = 0.2
    """ε, the range of the clipped ratio"""
    entropy_weight: float = 0.01
    """weight of the policy's entropy in nats, summed over the steps taken and divided like the rest of the loss"""
    entropy_half_life: int | None = None
    """meta-iterations in which the entropy's weight halves, so that costly actions are tried early and no longer at the
    end; None means that it stays"""
    value_weight: float = 0.5
    """weight of the values' squared error, in units of 1/(1 − γ) or of the trial's length, whichever is less"""
    value_clip: float | None = None
    """range around the data's values within which the values' loss has a gradient away from them, in the same units;
    None means no range. See `metarl_jax.outer.trial_loss`"""
    bptt: int | None = None
    """steps after which backpropagation through the memory is cut; None means never"""
    memory_size: int = 64
    """numbers in the memory"""

    def __post_init__(self):
        checks.integer("episodes", self.episodes)
        checks.integer("adaptation_steps", self.adaptation_steps, least=0)
        if checks.integer("burn_in", self.free_episodes, least=0) >= self.length:
            raise ValueError(
                f"burn_in is {self.burn_in}; a trial has {self.length} episodes, so it must lie in 0..{self.length - 1}"
            )

    @property
    def length(self) -> int:
        """H, the episodes of a trial."""
        return self.episodes * (self.adaptation_steps + 1)

    @property
    def free_episodes(self) -> int:
        """K, the burn-in as a number."""
        return 0 if self.burn_in is None else self.burn_in

    @property
    def steps_per_pass(self) -> int:
        """`minibatches`, or the default as a number."""
        if self.minibatches is not None:
            return self.minibatches
        return max(number for number in range(1, 5) if self.tasks % number == 0)

    @property
    def steps_per_update(self) -> int:
        """Outer steps per meta-iteration, which is what a schedule of `outer_lr` counts."""
        return self.epochs * self.steps_per_pass
