"""Level 1's interfaces: bundles of pure functions, closed over and never passed through jit.

A bundle says what a part can do. `metarl_jax.compose`, `sequential` and `lifelong` put parts together.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from metarl_jax import checks
from metarl_jax.types import Adaptation, Key, MetaState, Metrics, Path, Percept, PyTree, Trajectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskEnv:
    """A distribution over MDPs p(M). The task is an ARGUMENT of `reset` and `step`; nothing redraws it.

    The state is any struct with the fields `observation`, `reward` (of the step that led here), `terminated` and
    `truncated`. `step` takes no key: a stochastic environment carries one in its state. An episode whose observation or
    reward is NaN or infinite is void, see `metarl_jax.types.Trajectory`; it disturbs no other.

    Raises:
        ValueError: a size or the horizon is not a positive integer, or a function is none.

    Example:
        >>> from metarl_jax.envs import State
        >>> env = mrl.TaskEnv(
        ...     sample_task=lambda key: jax.random.normal(key, (1,)),
        ...     reset=lambda key, task: State(jax.random.normal(key, (1,)), 0.0, terminated=False, truncated=False),
        ...     step=lambda task, state, action: state.replace(reward=-jnp.abs(action - task).sum()),
        ...     observation_size=1,
        ...     action_size=1,
        ...     horizon=5,
        ... )
        >>> task = env.sample_task(jax.random.key(0))
        >>> state = env.step(task, env.reset(jax.random.key(1), task), task)
        >>> float(state.reward) == 0
        True
    """

    sample_task: Callable[[Key], PyTree] = dataclasses.field(repr=False)
    """``key → task``, any pytree of arrays; a function of the key alone. What else it reads, such as a variable of a
    curriculum, is frozen when it is compiled: a later change goes unnoticed. For another p(M) make another environment,
    ``dataclasses.replace(env, sample_task=...)``, and an algorithm for it"""
    reset: Callable[[Key, PyTree], Any] = dataclasses.field(repr=False)
    """``(key, task) → state``, a fresh start for every key"""
    step: Callable[[PyTree, Any, jax.Array], Any] = dataclasses.field(repr=False)
    """``(task, state, action) → state``"""
    observation_size: int
    action_size: int
    """number of action components, or of discrete actions"""
    horizon: int
    """T, environment steps per episode"""
    discrete: bool = False
    name: str = "custom"
    scene: Callable[[PyTree, Any], tuple[Any, PyTree]] | None = dataclasses.field(default=None, repr=False)
    """``(task, state) → (system, pipeline state)``: Brax's or like them, for a renderer; the system's `opt.timestep`
    is the seconds between two moments. None: there is no body to draw"""

    def __post_init__(self):
        where = f"of the environment {self.name!r}"
        for field in ("observation_size", "action_size", "horizon"):
            checks.integer(f"{field} {where}", getattr(self, field))
        for field in ("sample_task", "reset", "step"):
            checks.function(f"{field} {where}", getattr(self, field))
        if self.scene is not None:
            checks.function(f"scene {where}", self.scene)
        checks.boolean(f"discrete {where}", self.discrete)


class Policy(NamedTuple):
    """π_φ. `apply` sees ONE observation; batching is the library's business.

    The distribution has `sample(key)`, `log_prob(action)`, `entropy()` and `kl(other)`, see `metarl_jax.policies`.
    """

    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree, jax.Array], Any]
    labels: Callable[[PyTree], PyTree] | None = None
    """``φ → a tree like φ`` whose leaves name what a parameter is: "body", "head" (the last layer), "std" or "context";
    what lets an inner loop move some of them only. None: the policy names none"""


class RecurrentPolicy(NamedTuple):
    """π_θ with a memory, f_θ that acts at every step: each function sees ONE step of one trial.

    What a step needs of the past stands in the memory alone, so that a trial can be replayed: `remember` along time,
    then `act` at all steps at once.
    """

    init: Callable[[Key], PyTree]
    """``key → θ``"""
    start: Callable[[PyTree], PyTree]
    """``θ → memory`` at the start of a trial"""
    remember: Callable[[PyTree, PyTree, Percept], PyTree]
    """``(θ, memory, percept) → memory``"""
    act: Callable[[PyTree, PyTree, PyTree], tuple[Any, jax.Array]]
    """``(θ, memory, observation) → (distribution, value)``, the memory being that of the percept with this observation;
    the value, [], is of the rest of the trial, in any fixed unit"""
    params: Callable[[PyTree, PyTree], PyTree]
    """``(θ, memory) → φ``: what the memory means for what is done next, such as the base policy's weights"""


class InnerOptimizer(NamedTuple):
    """A differentiable update rule: ``update(gradient, state, φ, learned) → (φ, state)``.

    `learned` is what the outer loop learns of the rule itself, such as rates, and so a part of θ.
    """

    init: Callable[[PyTree], PyTree]
    """``φ → state``, what one inner step passes to the next"""
    update: Callable[..., tuple[PyTree, PyTree]]
    init_learned: Callable[[PyTree], PyTree] | None = None
    """``φ → learned`` at the start of training; None: the rule is fixed"""


class Adapter(NamedTuple):
    """f_θ for one task, one application per stage: ``fast_0 = init(θ)``, ``fast_{s+1} = learn(θ, fast_s, D_s)``."""

    init_meta: Callable[[Key], PyTree]
    """``key → θ``"""
    init: Callable[[PyTree], PyTree]
    """``θ → fast``"""
    params: Callable[[PyTree, PyTree], PyTree]
    """``(θ, fast) → φ``"""
    learn: Callable[[PyTree, PyTree, Trajectory, jax.Array], PyTree]
    """``(θ, fast, trajectory, advantage) → fast``"""
    born: Callable[[Key, PyTree], PyTree] | None = None
    """``(key, θ) → fast`` of an agent whose start is drawn anew for every life; None: θ says where all agents start"""
    learn_seeing: Callable[[PyTree, PyTree, Trajectory, jax.Array], tuple[PyTree, PyTree | None]] | None = None
    """`learn`, with the distributions π_φ(·|s) of the trajectory's steps as a function of θ where the step has computed
    them anyway: ``(θ, fast, trajectory, advantage) → (fast, distributions or None)``"""


Surrogate = Callable[[Policy, PyTree, Trajectory, jax.Array], jax.Array]
"""``(policy, φ, trajectory, advantage) → scalar``: the loss that an inner step descends."""

AdvantageEstimator = Callable[[Trajectory], jax.Array]
"""``trajectory → advantage [N, T]``: what a user may hand in."""

ScaledEstimator = Callable[[PyTree, Trajectory], tuple[jax.Array, jax.Array]]
"""``(φ, trajectory) → (advantage [N, T], scale [])``: what the assembly runs. φ may hold a critic; the scale is what
the advantages were divided by, in units of return."""

Objective = Callable[[Policy, Path], tuple[jax.Array, Metrics]]
"""``(policy, path) → (loss, metrics)`` of one task: the outer loss along its adaptation path."""


class MetaObjective(NamedTuple):
    """The outer loss as a function of θ at fixed data (leaves [B, S, ...]), means over tasks."""

    loss: Callable[[PyTree, PyTree], tuple[jax.Array, Metrics]]
    """``(θ, data) → (loss, metrics)``"""
    kl: Callable[[PyTree, PyTree], jax.Array] | None = None
    """``(θ, data) → E KL(behaviour ‖ π_φ(θ))`` over the counted stages, in nats; None: the objective has none"""
    gradient: Callable[[PyTree, PyTree], tuple[tuple[jax.Array, Metrics], PyTree]] | None = None
    """``(θ, data) → ((loss, metrics), ∇_θ loss)`` where it has a better way than to differentiate `loss`"""
    kl_curvature: Callable[[PyTree, PyTree], Callable[[PyTree], PyTree]] | None = None
    """``(θ, data) → (v → ∇²KL v)`` at the θ that collected the data, leaves like θ's; None: by differentiating `kl`"""

    def value_and_gradient(self, theta: PyTree, data: PyTree) -> tuple[tuple[jax.Array, Metrics], PyTree]:
        """((loss, metrics), ∇_θ loss)."""
        return (self.gradient or jax.value_and_grad(self.loss, has_aux=True))(theta, data)


class OuterOptimizer(NamedTuple):
    """Updates θ on fixed data: ``update(meta_objective, θ, opt_state, data) → (θ, opt_state, metrics)``."""

    init: Callable[[PyTree], PyTree]
    update: Callable[[MetaObjective, PyTree, PyTree, PyTree], tuple[PyTree, PyTree, Metrics]]
    needs_kl: bool = False
    """whether it asks the objective for its KL"""


class Online(NamedTuple):
    """f_θ without an environment: what acts and learns where somebody else steps the world, see `metarl_jax.Learner`.

    `fast` is what it knows of the task: φ and the inner optimiser's state, or the memory.
    """

    start: Callable[[Key, PyTree], PyTree]
    """``(key, θ) → fast`` before anything was seen"""
    act: Callable[[PyTree, PyTree, Percept], tuple[PyTree, Any]]
    """``(θ, fast, percept) → (fast, distribution)``: what to do now; a memory takes the percept in"""
    params: Callable[[PyTree, PyTree], PyTree]
    """``(θ, fast) → φ``"""
    learn: Callable[[PyTree, PyTree, Trajectory], PyTree] | None
    """``(θ, fast, a stage, leaves [N, T, ...]) → fast``; what padding holds within a row does not matter, and a row
    without a valid step is void. None: it has learned while it acted"""
    stage: Callable[[], Trajectory]
    """shapes and dtypes of a stage, leaves [N, T, ...]; a memory's is one episode"""
    horizon: int
    """environment steps of an episode. Where it is more than T, a row is a piece of an episode"""
    env: TaskEnv
    """whose observations and actions these are"""
    budget: int | None = None
    """environment steps after which a stage is complete before it has N episodes; None: it takes all N"""


class MetaAlgorithm(NamedTuple):
    """All that training, evaluation, checkpoints and notebooks know of an algorithm. Every function is jittable.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=5)
        >>> algorithm = mrl.algorithms.make("maml", env, tasks=2, episodes=3)
        >>> state = algorithm.init(jax.random.key(0))
        >>> state, metrics = jax.jit(algorithm.update)(jax.random.key(1), state)
        >>> metrics["return"].shape  # before and after one inner step
        (2,)
        >>> out = jax.jit(algorithm.adapt)(jax.random.key(2), state.params, env.sample_task(jax.random.key(3)))
        >>> out.returns.shape  # stages, episodes
        (2, 3)
    """

    init: Callable[[Key], MetaState]
    """``key → state``"""
    update: Callable[[Key, MetaState], tuple[MetaState, Metrics]]
    """one meta-iteration on fresh tasks and data; ``metrics["return"]`` is [S]"""
    adapt: Callable[..., Adaptation]
    """``(key, θ, task, steps=None) → Adaptation``: the f_θ of training, applied to one task; `steps`, a Python integer,
    makes the trial longer or shorter than the L inner steps of training (None)"""
    gradient: Callable[[Key, PyTree], tuple[PyTree, Metrics]]
    """``(key, θ) → (gradient, metrics)``: one estimate of ∇J(θ), an ascent direction, from fresh data"""
    policy: Policy | None = None
    """what acts with φ, for those who want more of an episode than `adapt` keeps; None: the algorithm does not say"""
    online: Online | None = None
    """the same f_θ for an environment outside of the program; None: the algorithm does not say"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """The sizes of one trial. S = L + 1 stages, so H = S·N episodes, of which K = burn_in·N are free exploration.

    Raises:
        ValueError: a size is not a positive integer, or the burn-in leaves no stage to count.
    """

    tasks: int = 20
    """B, tasks per meta-iteration"""
    episodes: int = 20
    """N, episodes per stage"""
    adaptation_steps: int = 1
    """L, inner steps; 0 means no adaptation"""
    burn_in: int | None = None
    """stages that the objective does not count, 0 … L; None means L: only the last stage counts"""
    horizon: int = 100
    """T, environment steps per episode"""
    stage_steps: int | None = None
    """a stage's budget of environment steps: it has as many whole episodes, one after the other, as reach it, and at
    most N; None: it has N episodes, however short"""

    def __post_init__(self):
        for field, least in (("tasks", 1), ("episodes", 1), ("horizon", 1), ("adaptation_steps", 0)):
            checks.integer(field, getattr(self, field), least)
        last = self.adaptation_steps
        if checks.integer("burn_in", self.first_counted, least=0) > last:
            raise ValueError(
                f"burn_in is {self.burn_in}; with adaptation_steps={last} it must lie in 0..{last}, "
                "since at least one stage must count"
            )
        room = self.episodes * self.horizon
        if self.stage_steps is not None and checks.integer("stage_steps", self.stage_steps) > room:
            raise ValueError(
                f"stage_steps is {self.stage_steps}, and {self.episodes} episodes of at most {self.horizon} steps "
                f"never have more than {room}; choose fewer, or more episodes"
            )

    @property
    def first_counted(self) -> int:
        """The burn-in as a number: the index of the first stage that counts."""
        return self.adaptation_steps if self.burn_in is None else self.burn_in

    @property
    def stages(self) -> int:
        """S = L + 1."""
        return self.adaptation_steps + 1
