"""Level 1's interfaces: bundles of pure functions, closed over and never passed through jit.

`metarl_jax.compose`, `metarl_jax.sequential` and `metarl_jax.lifelong` assemble algorithms from them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax import checks
from metarl_jax.recipes import Recipe, by_names
from metarl_jax.task_env import TaskEnv
from metarl_jax.types import Adaptation, Key, MetaState, Metrics, Path, Percept, PyTree, Trajectory


class Policy(NamedTuple):
    """π_φ. `apply` takes ONE observation; the library does the batching.

    The distribution has `sample(key)` and `log_prob(action)`, see `metarl_jax.policies`. What needs `entropy()`,
    `kl(other)` or `mode()` refuses one without.
    """

    init: Callable[[Key], PyTree]
    apply: Callable[[PyTree, jax.Array], Any]
    labels: Callable[[PyTree], PyTree] | None = None
    """``φ → a tree like φ`` of labels: "body", "head" (the last layer), "std" or "context", by which an inner loop can
    adapt a subset of the parameters. None: no labels"""

    __repr__ = by_names


class RecurrentPolicy(NamedTuple):
    """π_θ with a memory, an f_θ that adapts at each step: each function handles ONE step of one trial.

    The memory is the only state carried between steps, so a trial can be replayed: `remember` in a scan over time, then
    `act` at all steps in parallel.
    """

    init: Callable[[Key], PyTree]
    """``key → θ``"""
    start: Callable[[PyTree], PyTree]
    """``θ → memory`` at the start of a trial"""
    remember: Callable[[PyTree, PyTree, Percept], PyTree]
    """``(θ, memory, percept) → memory``"""
    act: Callable[[PyTree, PyTree, PyTree], tuple[Any, jax.Array]]
    """``(θ, memory, observation) → (distribution, value)``, with the memory after the percept of this observation; the
    value, [], is that of the rest of the trial, in any fixed unit"""
    params: Callable[[PyTree, PyTree], PyTree]
    """``(θ, memory) → φ``: the parameters that determine the next action, such as the weights of a base policy"""

    __repr__ = by_names


class InnerOptimizer(NamedTuple):
    """A differentiable update rule: ``update(gradient, state, φ, learned) → (φ, state)``.

    `learned` holds the rule's meta-learned parameters, such as rates; it is part of θ.
    """

    init: Callable[[PyTree], PyTree]
    """``φ → state``, carried from one inner step to the next"""
    update: Callable[..., tuple[PyTree, PyTree]]
    init_learned: Callable[[PyTree], PyTree] | None = None
    """``φ → learned`` at the start of training; None: the rule is fixed"""

    __repr__ = by_names


class Adapter(NamedTuple):
    """f_θ for one task, applied once per stage: ``fast_0 = init(θ)``, ``fast_{s+1} = learn(θ, fast_s, D_s)``."""

    init_meta: Callable[[Key], PyTree]
    """``key → θ``"""
    init: Callable[[PyTree], PyTree]
    """``θ → fast``"""
    params: Callable[[PyTree, PyTree], PyTree]
    """``(θ, fast) → φ``"""
    learn: Callable[[PyTree, PyTree, Trajectory, jax.Array], PyTree]
    """``(θ, fast, trajectory, advantage) → fast``"""
    born: Callable[[Key, PyTree], PyTree] | None = None
    """``(key, θ) → fast`` of a new agent with a random initialisation; None: θ determines the initialisation"""
    learn_seeing: Callable[[PyTree, PyTree, Trajectory, jax.Array], tuple[PyTree, PyTree | None]] | None = None
    """`learn` that also returns the distributions π_φ(·|s) at the trajectory's steps, differentiable in θ, if it has
    computed them: ``(θ, fast, trajectory, advantage) → (fast, distributions or None)``"""


Surrogate = Callable[[Policy, PyTree, Trajectory, jax.Array], jax.Array]
"""``(policy, φ, trajectory, advantage) → scalar``: the loss that an inner step descends."""

AdvantageEstimator = Callable[[Trajectory], jax.Array]
"""``trajectory → advantage [N, T]``: the form in which users provide an estimator."""

ScaledEstimator = Callable[[PyTree, Trajectory], tuple[jax.Array, jax.Array]]
"""``(φ, trajectory) → (advantage [N, T], scale [])``: the form used internally. φ may contain a critic; the scale is
the divisor of the advantages, in units of return."""

Objective = Callable[[Policy, Path], tuple[jax.Array, Metrics]]
"""``(policy, path) → (loss, metrics)`` of one task: the outer loss along its adaptation path."""


class MetaObjective(NamedTuple):
    """The outer loss as a function of θ at fixed data (leaves [B, S, ...]), means over tasks."""

    loss: Callable[[PyTree, PyTree], tuple[jax.Array, Metrics]]
    """``(θ, data) → (loss, metrics)``"""
    kl: Callable[[PyTree, PyTree], jax.Array] | None = None
    """``(θ, data) → E KL(behaviour ‖ π_φ(θ))`` over the counted stages, in nats; None: not available"""
    gradient: Callable[[PyTree, PyTree], tuple[tuple[jax.Array, Metrics], PyTree]] | None = None
    """``(θ, data) → ((loss, metrics), ∇_θ loss)``, more efficient than differentiating `loss`; None: differentiate"""
    kl_curvature: Callable[[PyTree, PyTree], Callable[[PyTree], PyTree]] | None = None
    """``(θ, data) → (v → ∇²KL v)`` at the θ that collected the data, v like θ; None: differentiate `kl` twice"""

    def value_and_gradient(self, theta: PyTree, data: PyTree) -> tuple[tuple[jax.Array, Metrics], PyTree]:
        """((loss, metrics), ∇_θ loss)."""
        return (self.gradient or jax.value_and_grad(self.loss, has_aux=True))(theta, data)

    def ascent(self, theta: PyTree, data: PyTree) -> tuple[PyTree, Metrics]:
        """−∇_θ loss, the estimate of ∇J, and the metrics with the loss and the gradient's norm."""
        (loss, metrics), descent = self.value_and_gradient(theta, data)
        ascent = jax.tree.map(jnp.negative, descent)
        return ascent, metrics | {"loss": loss, "meta_gradient_norm": optax.tree.norm(ascent)}


class OuterOptimizer(NamedTuple):
    """Updates θ on fixed data: ``update(meta_objective, θ, opt_state, data) → (θ, opt_state, metrics)``."""

    init: Callable[[PyTree], PyTree]
    update: Callable[[MetaObjective, PyTree, PyTree, PyTree], tuple[PyTree, PyTree, Metrics]]
    needs_kl: bool = False
    """whether it uses the objective's KL"""

    __repr__ = by_names


class Online(NamedTuple):
    """f_θ for an environment that runs outside the program, see `metarl_jax.Learner`.

    `fast` is the state of the adaptation: φ and the inner optimiser's state, or the memory.
    """

    start: Callable[[Key, PyTree], PyTree]
    """``(key, θ) → fast`` before the first observation"""
    act: Callable[[PyTree, PyTree, Percept], tuple[PyTree, Any]]
    """``(θ, fast, percept) → (fast, distribution)`` of the next action; a memory is updated with the percept"""
    params: Callable[[PyTree, PyTree], PyTree]
    """``(θ, fast) → φ``"""
    learn: Callable[[PyTree, PyTree, Trajectory], PyTree] | None
    """``(θ, fast, a stage with leaves [N, T, ...]) → fast``. Values on padding are ignored, and a row without a valid
    step is void. None: the agent learns while it acts"""
    stage: Callable[[], Trajectory]
    """shapes and dtypes of a stage, leaves [N, T, ...]; with a memory, a stage is one episode"""
    horizon: int
    """environment steps per episode. If larger than T, a row is a piece of an episode"""
    env: TaskEnv
    """the environment that defines observations and actions"""
    budget: int | None = None
    """environment steps after which a stage is complete even with fewer than N episodes; None: no budget"""

    __repr__ = by_names


class MetaAlgorithm(NamedTuple):
    """An algorithm as used by training, evaluation, checkpoints and notebooks. All functions are jittable.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=5)
        >>> algorithm = mrl.algorithms.make("maml", env, tasks=2, episodes=3)
        >>> algorithm
        MetaAlgorithm('maml', env='point-nav@finn2017', tasks=2, episodes=3, adaptation_steps=1)
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
    """``(key, θ, task, steps=None, deterministic=False) → Adaptation``: the f_θ of training, applied to one task;
    `steps`, a Python integer, is the number of inner steps (None: L, as in training). With `deterministic`, True or
    False in Python, each stage is also played by modes: `Adaptation.by_mode`"""
    gradient: Callable[[Key, PyTree], tuple[PyTree, Metrics]]
    """``(key, θ) → (gradient, metrics)``: one estimate of ∇J(θ), an ascent direction, from fresh data"""
    policy: Policy | None = None
    """the policy that acts with φ, for collecting episodes beyond those of `adapt`; None: not provided"""
    online: Online | None = None
    """the same f_θ for an environment outside the program; None: not provided"""
    recipe: Recipe | None = None
    """the call that made it, for `repr` and `metarl_jax.save`; None: it was put together by hand"""

    def __repr__(self) -> str:
        if self.recipe is None:
            return f"MetaAlgorithm({', '.join(name for name in self._fields if getattr(self, name))})"
        own = [f"own {name}" for name in self.recipe.replaced(self)]
        return f"MetaAlgorithm({', '.join([self.recipe.about, *own])})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """The sizes of one trial. S = L + 1 stages, so H = S·N episodes, of which K = burn_in·N are free exploration.

    Raises:
        ValueError: a size is not a positive integer, or the burn-in covers all stages.
    """

    tasks: int = 20
    """B, tasks per meta-iteration"""
    episodes: int = 20
    """N, episodes per stage"""
    adaptation_steps: int = 1
    """L, inner steps; 0 means no adaptation"""
    burn_in: int | None = None
    """number of initial stages that the objective ignores, 0 … L; None means L: only the last stage counts"""
    horizon: int = 100
    """T, environment steps per episode"""
    stage_steps: int | None = None
    """budget of environment steps per stage: episodes are counted in order until their steps reach the budget, at most
    N episodes; None: all N episodes count, whatever their length"""

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
        """Index of the first stage that counts: `burn_in` with None resolved."""
        return self.adaptation_steps if self.burn_in is None else self.burn_in

    @property
    def stages(self) -> int:
        """S = L + 1."""
        return self.adaptation_steps + 1
