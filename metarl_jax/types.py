"""Level 0: the data that flow through a meta-iteration.

Axis legend, used in every docstring of the library:

    B   tasks of one meta-iteration
    S   stages of a trial; stage 0 comes before any adaptation, so S = L + 1 with L inner steps
    N   episodes per stage
    T   environment steps per episode (the horizon)

In the survey's terms (Beck et al. 2023, arXiv:2301.08028) a trial has H = S·N episodes and a burn-in of
K = burn_in·N episodes. Most parts of the library see one task, ``[N, T, ...]`` or ``[S, N, T, ...]``; B is
known to `metarl_jax.outer` and to the assemblies.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

PyTree = Any
Key = jax.Array  # a typed key, made by jax.random.key
Metrics = dict[str, jax.Array]


def strongly_typed(tree: PyTree) -> PyTree:
    """Arrays of the leaves' own dtypes: weakly typed ones (Python scalars) would compile a program twice."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.result_type(leaf)), tree)


AVERAGES = ("horizon", "valid")
"""What a stage's losses are divided by: the steps that its episodes had room for, or those that they took."""


@struct.dataclass
class Trajectory:
    """One stage of the meta-trajectory D: N episodes of at most T steps, each from a fresh reset.

    An episode that ends before the horizon is padded: there `valid` is False, the reward is 0, and the other fields
    repeat the episode's first step, so that nothing computed from them can be infinite or NaN.
    An episode whose simulation diverged is void: padding from its first step on, for a broken simulation is no sample
    of the MDP, and keeping what it paid until then would reward breaking it wherever rewards are negative.
    The horizon belongs to the task (J counts T steps), so reaching it is neither termination nor truncation:
    no value is bootstrapped there.

    Every loss of a stage is a `mean` over it, written E_t[·].
    """

    observation: jax.Array
    """[N, T, ...] what the policy saw before it acted"""
    action: jax.Array
    """[N, T, A], or integer [N, T] where actions are discrete"""
    log_prob: jax.Array
    """[N, T] log π(a|s) of the behaviour policy, in nats"""
    reward: jax.Array
    """[N, T] reward of the step; 0 on padding"""
    discount: jax.Array
    """[N, T] 0 where the step terminated the episode, else 1; a cut by time limit keeps 1"""
    truncated: jax.Array
    """[N, T] bool: the environment cut the episode after this step although its state was not terminal"""
    valid: jax.Array
    """[N, T] bool: the step was taken; the first step of an episode always is, unless the episode is void"""
    next_observation: jax.Array
    """[N, T, ...] what the step led to; a truncated episode's value is bootstrapped at that of its last step"""
    average: str = struct.field(pytree_node=False, default="horizon")
    """what `mean` divides by, a name of `AVERAGES`; no array"""
    spare: jax.Array | None = None
    """[N] bool: the episode came after the stage's budget of steps was spent, so it is void; None: there is none"""

    @property
    def void(self) -> jax.Array:
        """[N] bool: the episode diverged or is spare, so it counts nowhere; every other one has a valid first step."""
        return ~self.valid[..., 0]

    @property
    def diverged(self) -> jax.Array:
        """[N] bool: the episode is void because its simulation diverged."""
        return self.void if self.spare is None else self.void & ~self.spare

    @property
    def lengths(self) -> jax.Array:
        """[N] int32: steps that every episode took; 0 for a void one, and at least 1 for every other."""
        return self.valid.sum(-1, dtype=jnp.int32)

    @property
    def returns(self) -> jax.Array:
        """[N] undiscounted return of every episode; NaN for a void one, which has none."""
        return jnp.where(self.void, jnp.nan, jnp.where(self.valid, self.reward, 0).sum(-1))

    @property
    def room(self) -> jax.Array:
        """[N] int32: what each episode adds to the divisor of `mean`: T, or its length; 0 for a void one."""
        if self.average == "valid":
            return self.lengths
        return self.valid.shape[-1] * (~self.void).astype(jnp.int32)

    def mean(self, values: jax.Array) -> jax.Array:
        """E_t[values] = Σ values / (N·T) over the steps taken, N the episodes that are not void: [N, T] → [].

        The divisor does not depend on how episodes end, so that the gradient of E_t[log π(a_t|s_t) Σ_{k≥t} r_k] is, on
        average, that of the mean return of an episode, over T. With `average="valid"` the divisor is the number of
        steps taken, as in published codes: a ratio of two sums, whose gradient belongs to no objective where episodes
        differ in length, since what makes an episode short also makes its steps weigh more. Where all last T steps,
        both are the same to the last bit.

        Where `values` is a product, guard its factors too: the gradient with respect to one is the other.
        """
        return jnp.where(self.valid, values, 0).sum() / jnp.maximum(self.room.sum(), 1)


@struct.dataclass
class Percept:
    """What a policy with a memory sees at one step: Duan et al. (2016, arXiv:1611.02779)."""

    observation: jax.Array
    """[...] of the step"""
    action: jax.Array
    """[A] the action before, one-hot where actions are discrete; 0 at the start of a trial"""
    reward: jax.Array
    """[] the reward before, that of the last episode's last step included; 0 at the start of a trial"""
    start: jax.Array
    """[] bool: an episode begins"""


@struct.dataclass
class Running:
    """An environment between two calls of `metarl_jax.rollout.unroll`."""

    state: PyTree
    """the environment's own"""
    time: jax.Array
    """[] int32: steps since its reset"""
    over: jax.Array
    """[] bool: the episode has ended, so the next call resets it"""


@struct.dataclass
class Stage:
    """One stage of a trial, fixed once collected: what the replay and the outer loss read. Leaves [N, T, ...]."""

    trajectory: Trajectory
    advantage: jax.Array
    """[N, T] the advantage that the inner step and the outer loss weigh log-probabilities with"""
    params: PyTree
    """φ, the parameters of the behaviour policy that collected this stage"""
    scale: jax.Array
    """[] what the advantages were divided by, in units of return; 1 where they were not normalised"""
    credit: jax.Array
    """[N] what each episode is credited with of the counted stages after it, as `metarl_jax.outer.exploration_credit`
    computes it across tasks, in the units of the stage losses"""
    weight: jax.Array | None = None
    """[] of this stage's loss where an outer optimiser weighs the counted stages, whose weights add up to 1; None: the
    counted stages' mean"""
    penalty: jax.Array | None = None
    """[] η of `metarl_jax.outer.inner_kl` where an outer optimiser adapts it; None: the objective's own"""
    behavior: PyTree = None
    """π_φ(·|s) of every step, leaves [N, T, ...], for who asks more than once; None: from `params`, when it is asked
    for"""


@struct.dataclass
class Path:
    """The adaptation path of one task: φ of every stage as a function of θ, beside the fixed data. Leaves [S, ...]."""

    params: PyTree
    """φ_0 … φ_L, replayed, so differentiable in θ"""
    data: Stage
    """what was collected at each stage"""
    burn_in: int = struct.field(pytree_node=False)
    """stages that the objective does not count"""
    seen: PyTree = None
    """π_φs(·|s) of every step of D_s, leaves [S, N, T, ...], a function of θ like φ_s; None: not known yet"""

    @property
    def counted(self) -> "Path":
        """The stages after the burn-in."""
        return jax.tree.map(lambda leaf: leaf[self.burn_in :], self)

    @property
    def stages(self) -> tuple[PyTree, Stage, PyTree]:
        """(φ_s, its data, what it says of them), leaves [S, ...]."""
        return self.params, self.data, self.seen

    @property
    def before_steps(self) -> "Path":
        """The L stages that an inner step learned from."""
        return jax.tree.map(lambda leaf: leaf[:-1], self)


@struct.dataclass
class Theta:
    """θ where more is learned than where the policy starts; where not, θ is the policy's parameters themselves."""

    policy: PyTree
    """φ_0"""
    inner: PyTree
    """what is learned of the inner update: rates, preconditioners"""


@struct.dataclass
class MetaState:
    """What a meta-iteration carries; everything that a checkpoint needs besides the random key."""

    params: PyTree
    """θ"""
    opt_state: PyTree
    """state of the outer optimiser"""
    iteration: jax.Array
    """meta-updates done, int32"""


@struct.dataclass
class Adaptation:
    """What `MetaAlgorithm.adapt` returns for one task."""

    params: PyTree
    """φ = f_θ(D), after the last inner step"""
    returns: jax.Array
    """[S, N] undiscounted return of every episode, stage by stage; the last stage was collected with `params`. NaN for
    a void episode, which has none: average with `jax.numpy.nanmean`"""
    trajectory: Trajectory
    """D; leaves [S, N, T, ...]"""
    lengths: jax.Array | None = None
    """[S, N] int: steps that every episode took, 0 for a void one. Where they, like the returns, are summed up stage by
    stage, a program that leaves `trajectory` out keeps none of it, however long the trial. None: read off it"""
    spare: jax.Array | None = None
    """[S, N] bool: see `Trajectory.spare`"""
