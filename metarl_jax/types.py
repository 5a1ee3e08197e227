"""Level 0: the data that flow through a meta-iteration.

Axis legend, used in every docstring of the library:

    B   tasks of one meta-iteration
    S   stages of a trial; stage 0 comes before any adaptation, so S = L + 1 with L inner steps
    N   episodes per stage
    T   environment steps per episode (the horizon)

In the survey's terms (Beck et al. 2023, arXiv:2301.08028) a trial has H = S·N episodes and a burn-in of
K = burn_in·N episodes. Most parts of the library handle one task, ``[N, T, ...]`` or ``[S, N, T, ...]``; the axis B
appears in `metarl_jax.outer` and in the assemblies.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

PyTree = Any
Key = jax.Array  # a typed key, made by jax.random.key
Metrics = dict[str, jax.Array]
Number = float | jax.Array  # [], a hyperparameter, which jax.vmap over several may trace


def strongly_typed(tree: PyTree) -> PyTree:
    """The leaves as strongly typed arrays of the same dtypes: weak types would compile a program twice."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)), tree)


def is_key(leaf: Any) -> bool:
    """Whether a leaf, an array or its shape and type, holds typed keys."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def numbered(key: Key, count: int) -> Key:
    """``fold_in(key, i)`` for i < count, [count]. Unlike those of `split`, the first ones do not depend on `count`."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))


def tree_where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Leaf by leaf ``where(condition, new, old)``, for a condition []."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


AVERAGES = ("horizon", "valid")
"""The divisor of a stage's losses: the horizon times the number of episodes, or the number of steps taken."""


@struct.dataclass
class Trajectory:
    """One stage of the meta-trajectory D: N episodes of at most T steps, each from a fresh reset.

    An episode that ends before the horizon is padded: there `valid` is False, the reward is 0, and the other fields
    repeat the episode's first step, so that nothing computed from them can be infinite or NaN.
    An episode whose simulation diverged is void: all its steps are padding. A diverged simulation is not a sample of
    the MDP, and counting its rewards up to that point would favour diverging wherever rewards are negative.
    The horizon belongs to the task (J counts T steps), so reaching it is neither termination nor truncation:
    no value is bootstrapped there.

    Every loss of a stage is a `mean` over it, written E_t[·].
    """

    observation: PyTree
    """[N, T, ...] the observation that the action is based on; leaves if it is a tree"""
    action: jax.Array
    """[N, T, A]; where actions are discrete, integer [N, T], or [N, T, n] for n choices at once"""
    log_prob: jax.Array
    """[N, T] log π(a|s) of the behaviour policy, in nats"""
    reward: jax.Array
    """[N, T] reward of the step; 0 on padding"""
    discount: jax.Array
    """[N, T] 0 where the step terminated the episode, else 1; a truncated step has 1"""
    truncated: jax.Array
    """[N, T] bool: the environment cut the episode after this step although its state was not terminal"""
    valid: jax.Array
    """[N, T] bool: the step was taken; True for the first step of each episode that is not void"""
    next_observation: PyTree
    """[N, T, ...] the observation after the step; a truncated episode is bootstrapped at that of its last step"""
    average: str = struct.field(pytree_node=False, default="horizon")
    """the divisor of `mean`, a name of `AVERAGES`; static"""
    spare: jax.Array | None = None
    """[N] bool: the episode started after the stage's budget of steps was spent, so it is void; None: no budget"""

    @property
    def void(self) -> jax.Array:
        """[N] bool: the episode diverged or is spare, so it is not counted; all others have a valid first step."""
        return ~self.valid[..., 0]

    @property
    def diverged(self) -> jax.Array:
        """[N] bool: the episode is void because its simulation diverged."""
        return self.void if self.spare is None else self.void & ~self.spare

    @property
    def lengths(self) -> jax.Array:
        """[N] int32: steps taken by each episode; 0 for a void episode, at least 1 for the others."""
        return self.valid.sum(-1, dtype=jnp.int32)

    @property
    def returns(self) -> jax.Array:
        """[N] undiscounted return of each episode; NaN for a void episode."""
        return jnp.where(self.void, jnp.nan, jnp.where(self.valid, self.reward, 0).sum(-1))

    @property
    def room(self) -> jax.Array:
        """[N] int32: contribution of each episode to the divisor of `mean`: T or its length; 0 for a void episode."""
        if self.average == "valid":
            return self.lengths
        return self.valid.shape[-1] * (~self.void).astype(jnp.int32)

    def mean(self, values: jax.Array) -> jax.Array:
        """E_t[values] = Σ values / (N·T) over the steps taken, N counting the episodes that are not void: [N, T] → [].

        The divisor does not depend on how episodes end, so the expected gradient of E_t[log π(a_t|s_t) Σ_{k≥t} r_k] is
        the gradient of the mean return of an episode, divided by T. With `average="valid"` the divisor is the number of
        steps taken, as in published code. If episodes differ in length, this ratio of two sums is not the gradient of
        any objective: shorter episodes get a larger weight per step. If all episodes have T steps, both divisors give
        bit-identical results.

        If `values` is a product, mask its factors on padding too: the gradient with respect to one is the other.
        """
        return jnp.where(self.valid, values, 0).sum() / jnp.maximum(self.room.sum(), 1)


@struct.dataclass
class Percept:
    """The input of a recurrent policy at one step: Duan et al. (2016, arXiv:1611.02779)."""

    observation: PyTree
    """[...] the observation of this step; leaves if it is a tree"""
    action: jax.Array
    """[A] the previous action, one-hot for discrete actions; 0 at the start of a trial"""
    reward: jax.Array
    """[] the previous reward, also across episodes; 0 at the start of a trial"""
    start: jax.Array
    """[] bool: first step of an episode"""


@struct.dataclass
class Running:
    """An environment between two calls of `metarl_jax.rollout.unroll`."""

    state: PyTree
    """state of the environment"""
    time: jax.Array
    """[] int32: steps since its reset"""
    over: jax.Array
    """[] bool: the episode has ended, so the next call resets the environment"""


@struct.dataclass
class Stage:
    """Data of one stage of a trial, read by the replay and the outer loss. Leaves [N, T, ...]."""

    trajectory: Trajectory
    advantage: jax.Array
    """[N, T] advantages for the inner step and the outer loss"""
    params: PyTree
    """φ, the parameters of the behaviour policy that collected this stage"""
    scale: jax.Array
    """[] divisor of the advantages, in units of return; 1 if they are not normalised"""
    credit: jax.Array
    """[N] credit of each episode for the counted stages after it, in the units of the stage losses; see
    `metarl_jax.outer.exploration_credit`, which compares tasks"""
    weight: jax.Array | None = None
    """[] weight of this stage's loss, set by an outer optimiser; the weights of the counted stages sum to 1. None: all
    counted stages have equal weight"""
    penalty: jax.Array | None = None
    """[] η of `metarl_jax.outer.inner_kl`, if an outer optimiser adapts it; None: the objective's constant η"""
    behavior: PyTree = None
    """π_φ(·|s) at each step, leaves [N, T, ...], cached for repeated use; None: computed from `params` when needed"""


@struct.dataclass
class Path:
    """The adaptation path of one task: φ of each stage as a function of θ, and the fixed data. Leaves [S, ...]."""

    params: PyTree
    """φ_0 … φ_L from the replay, differentiable in θ"""
    data: Stage
    """the data of each stage"""
    burn_in: int = struct.field(pytree_node=False)
    """number of initial stages that the objective ignores"""
    seen: PyTree = None
    """π_φs(·|s) at each step of D_s, leaves [S, N, T, ...], differentiable in θ; None: not computed"""

    @property
    def counted(self) -> "Path":
        """The stages after the burn-in."""
        return jax.tree.map(lambda leaf: leaf[self.burn_in :], self)

    @property
    def stages(self) -> tuple[PyTree, Stage, PyTree]:
        """(φ_s, D_s, π_φs(·|s) or None), leaves [S, ...]."""
        return self.params, self.data, self.seen

    @property
    def before_steps(self) -> "Path":
        """The L stages that an inner step learned from."""
        return jax.tree.map(lambda leaf: leaf[:-1], self)


@struct.dataclass
class Theta:
    """θ of an algorithm that also learns its inner update; otherwise θ is the policy's parameters alone."""

    policy: PyTree
    """φ_0"""
    inner: PyTree
    """learned parameters of the inner update: rates, preconditioners"""


@struct.dataclass
class MetaState:
    """State of training between meta-iterations; a checkpoint stores this and the random key."""

    params: PyTree
    """θ"""
    opt_state: PyTree
    """state of the outer optimiser"""
    iteration: jax.Array
    """[] int32: number of meta-updates done"""


@struct.dataclass
class Played:
    """Episodes that measure a stage's φ and are not learned from; see `metarl_jax.policies.at_mode`."""

    returns: jax.Array
    """[S, N] undiscounted return of each episode; NaN for a void one"""
    lengths: jax.Array
    """[S, N] int: steps of each episode; 0 for a void one"""


@struct.dataclass
class Adaptation:
    """Result of `MetaAlgorithm.adapt` for one task."""

    params: PyTree
    """φ = f_θ(D), after the last inner step"""
    returns: jax.Array
    """[S, N] undiscounted return of each episode; the last stage was collected with `params`. NaN for a void episode:
    average with `jax.numpy.nanmean`"""
    trajectory: Trajectory
    """D; leaves [S, N, T, ...]"""
    lengths: jax.Array | None = None
    """[S, N] int: steps taken by each episode, 0 for a void one. Computed per stage, like `returns`, so that, when
    `trajectory` is unused, XLA can drop it and memory stays constant in S. None: derive from `trajectory`"""
    spare: jax.Array | None = None
    """[S, N] bool: see `Trajectory.spare`"""
    by_mode: Played | None = None
    """with `deterministic`, each stage once more from the same starts and draws, by modes instead of samples; D and φ
    are those without it, up to rounding. None: not asked for"""
