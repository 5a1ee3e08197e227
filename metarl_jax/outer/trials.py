"""J(θ) of a recurrent policy: a trial as ONE sequence of steps, and its policy-gradient loss.

The trial is one episode of the meta-MDP, whose state is the whole history. So the benefit of an action for later
episodes is credited through the return of the rest of the trial. Burn-in means reward 0 in the first K episodes; their
actions are still credited for later returns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from metarl_jax.actions import as_vector
from metarl_jax.base import RecurrentPolicy, TaskEnv
from metarl_jax.inner.returns import as_at_start
from metarl_jax.outer.objectives import clipped_gain
from metarl_jax.policies.likelihood import masked_mean, required
from metarl_jax.types import Metrics, Number, Percept, PyTree, Trajectory


@struct.dataclass
class Trials:
    """Data of a trial in one task; a batch has a leading axis B."""

    trajectory: Trajectory
    """leaves [H, 1, T, ...]: each episode is a separate stage"""
    params: PyTree
    """φ after each episode, leaves [H, ...]"""


@struct.dataclass
class Sequence:
    """Data of one trial as one sequence of at most X = H·T steps; the valid steps come first."""

    percept: Percept
    """leaves [X, ...]"""
    trajectory: Trajectory
    """leaves [1, X, ...]: one episode of the meta-MDP; rewards are 0 in the burn-in, inner episode ends are removed"""
    counted: jax.Array
    """[X] bool: the step belongs to an episode after the burn-in"""
    advantage: jax.Array
    """[X] weights of the log-probabilities in the loss; 0 on padding"""
    target: jax.Array
    """[X] targets of the values, A + V, in units of return"""
    value: jax.Array
    """[X] V_t at the θ that collected the trial, in the policy's unit"""
    room: jax.Array
    """[2] int32: the `room` summed over all episodes of the trial, and over those that count"""


class Weights(NamedTuple):
    """Weights and clipping ranges of the terms in the loss of a trial."""

    clip: Number
    """ε, the clipping range of the ratio"""
    entropy: Number
    value: Number
    value_clip: Number | None = None
    """clipping range of a value around that of the data's θ, in the policy's unit; None: not clipped"""


def as_sequence(env: TaskEnv, trajectory: Trajectory, burn_in: int, discount: Number = 1.0) -> Sequence:
    """The steps of one trial in order, without the gaps left by episodes that end early.

    Args:
        env: the environment that defines the actions.
        trajectory: leaves [H, T, ...], one row per episode.
        burn_in: K, episodes whose rewards do not count.
        discount: γ; rewards are discounted to the start of their episode.

    Returns:
        The sequence; its advantage, target and value are still 0.
    """
    episodes, horizon = trajectory.valid.shape
    steps = episodes * horizon
    order = jnp.argsort(~trajectory.valid.reshape(-1), stable=True)
    flat = jax.tree.map(lambda leaf: leaf.reshape(steps, *leaf.shape[2:])[order], trajectory)
    episode, time = order // horizon, order % horizon
    counted = flat.valid & (episode >= burn_in)
    reward = jnp.where(flat.valid, flat.reward, 0)
    weight = as_at_start(jnp.ones_like(trajectory.reward), discount).reshape(steps)[order]

    def before(leaf):  # shifts by one step; the first step gets zeros
        return jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf[:-1]])

    percept = Percept(
        observation=flat.observation,
        action=before(jax.vmap(lambda action: as_vector(env, action))(flat.action)),
        reward=before(reward),
        start=time == 0,
    )
    goes_on = jnp.append(flat.valid[1:], False)

    def following(observation, last):  # the trial goes on with the next episode where one ends
        there = goes_on.reshape(-1, *[1] * (observation.ndim - 1))
        return jnp.where(there, jnp.roll(observation, -1, axis=0), last)

    joined = flat.replace(
        reward=jnp.where(counted, reward * weight, 0),
        discount=jnp.ones_like(flat.discount),
        truncated=jnp.zeros_like(flat.truncated),
        next_observation=jax.tree.map(following, flat.observation, flat.next_observation),
    )
    joined = jax.tree.map(lambda leaf: leaf[None], joined)
    zeros = jnp.zeros_like(reward)
    room = jnp.stack([trajectory.room.sum(), trajectory.room[burn_in:].sum()])
    return Sequence(percept, joined, counted, zeros, zeros, zeros, room)


class Replayed(NamedTuple):
    """Outputs of the policy on a fixed sequence, differentiable in θ; each [X]."""

    log_prob: jax.Array
    entropy: jax.Array | None
    """None: the policy's distribution does not have it"""
    value: jax.Array
    """in the policy's unit"""


def replay_sequence(
    policy: RecurrentPolicy,
    theta: PyTree,
    sequence: Sequence,
    bptt: int | None = None,
    remat: bool = False,
    needs_entropy: bool = True,
) -> Replayed:
    """Recomputes the memory along ONE trial and the policy's outputs, differentiable in θ.

    Args:
        policy: π_θ.
        theta: θ.
        sequence: from `as_sequence`.
        bptt: number of steps after which backpropagation through the memory is truncated; None means never.
        remat: recompute the memory's steps in the backward pass instead of storing their activations.
        needs_entropy: whether a distribution without entropy is refused.

    Raises:
        ValueError: the entropy is needed, and the policy's distribution does not have it.
    """
    steps = sequence.counted.shape[0]

    def remember(state, step_input):
        index, percept = step_input
        if bptt is not None:
            cut = (index > 0) & (index % bptt == 0)  # the initial memory is a function of θ and is not cut
            state = jax.tree.map(lambda m: jnp.where(cut, jax.lax.stop_gradient(m), m), state)
        state = policy.remember(theta, state, percept)
        return state, state

    step = jax.checkpoint(remember) if remat else remember
    _, memories = jax.lax.scan(step, policy.start(theta), (jnp.arange(steps), sequence.percept))

    def act(state, observation, action):
        distribution, value = policy.act(theta, state, observation)
        log_prob, entropy = distribution.log_prob(action), None
        if needs_entropy or hasattr(distribution, "entropy"):
            entropy = required(distribution, "entropy", "entropy_weight")()
        return Replayed(log_prob, entropy, value)

    return jax.vmap(act)(memories, sequence.percept.observation, sequence.trajectory.action[0])


def trial_loss(
    sequence: Sequence, replayed: Replayed, weights: Weights, scale: Number
) -> tuple[Float[Array, ""], Metrics]:
    """−Σ_t clipped gain_t / (H−K)T − w_H Σ_t H(π_t) / HT + w_V Σ_t (V_t − target_t)² / (HT·scale²).

    The sums run over the steps taken, and the divisors are the sequence's `room`. The gain is that of
    `metarl_jax.outer.clipped`. With plain returns of the trial as advantages and both weights 0, the gradient at the
    behaviour's θ is minus the gradient of the mean return of a counted episode, divided by T, however episodes end.
    Schulman et al. (2017, arXiv:1707.06347).

    With `value_clip` = ε, the squared error is the maximum of the errors of V_t and of V_t clipped to within ε of its
    value at the data's θ, so that no gradient moves V_t further away.

    Args:
        sequence: with advantages and targets.
        replayed: outputs of the current θ.
        weights: weights of the terms.
        scale: units of return per unit of the policy's value.
    """
    valid = sequence.trajectory.valid[0]
    behavior = jax.lax.stop_gradient(sequence.trajectory.log_prob[0])
    ratio = jnp.where(valid, jnp.exp(jnp.where(valid, replayed.log_prob - behavior, 0)), 1)
    gain = clipped_gain(ratio, sequence.advantage, weights.clip)
    room, counted_room = sequence.room

    def total(values):
        return jnp.where(valid, values, 0).sum()

    # The gain is 0 if all counted episodes are void.
    gain = jnp.where(counted_room > 0, total(gain) / jnp.maximum(counted_room, 1), 0)
    target, value, clip = sequence.target / scale, replayed.value, weights.value_clip
    errors = (value - target) ** 2
    if clip is not None:
        value_clipped = sequence.value + jnp.clip(value - sequence.value, -clip, clip)
        errors = jnp.maximum(errors, (value_clipped - target) ** 2)
    error = total(errors) / jnp.maximum(room, 1)
    entropy = 0.0 if replayed.entropy is None else total(replayed.entropy) / jnp.maximum(room, 1)
    metrics = {"ratio_min": ratio.min(), "ratio_max": ratio.max(), "critic_error": error}
    return -gain - weights.entropy * entropy + weights.value * error, metrics


def normalize_over_tasks(
    advantage: Float[Array, "B X"], target: Float[Array, "B X"], valid: Bool[Array, "B X"]
) -> Float[Array, "B X"]:
    """(A − mean) / (std + max |target| / 100) over the valid steps of ALL tasks; 0 on padding.

    An outer step, unlike an inner step, is shared by all tasks, so advantages are normalised over tasks; V accounts for
    differences between tasks. Near an optimum A is only the error of V, about 1 % of a return, and the term with
    |target| prevents scaling it up to size 1.
    """
    mean = masked_mean(advantage, valid)
    centered = jnp.where(valid, advantage - mean, 0)
    noise = 0.01 * jnp.where(valid, jnp.abs(target), 0).max()
    return centered / (jnp.sqrt(masked_mean(centered**2, valid)) + noise + 1e-8)
