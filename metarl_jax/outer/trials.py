"""J(θ) of a policy with a memory: a trial as ONE sequence of steps, and the loss of a policy gradient on it.

The trial is an episode of the meta-MDP whose state is all that happened. So what an action does for later episodes is
credited to it through the return of the rest of the trial, and burn-in is a reward of 0: the first K episodes pay
nothing, and their actions keep what they are good for.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from metarl_jax.base import RecurrentPolicy, TaskEnv
from metarl_jax.inner.returns import as_at_start
from metarl_jax.outer.objectives import clipped_gain
from metarl_jax.policies.likelihood import masked_mean
from metarl_jax.rollout import as_vector
from metarl_jax.types import Metrics, Percept, PyTree, Trajectory


@struct.dataclass
class Trials:
    """What trials collect, leaves of one task; a batch adds B in front."""

    trajectory: Trajectory
    """leaves [H, 1, T, ...]: every episode is a stage of its own"""
    params: PyTree
    """φ after each episode, leaves [H, ...]"""


@struct.dataclass
class Sequence:
    """One trial as one sequence of at most X = H·T steps, fixed once collected; the valid steps come first."""

    percept: Percept
    """leaves [X, ...]"""
    trajectory: Trajectory
    """leaves [1, X, ...]: one episode of the meta-MDP, without reward in the burn-in and without ends before its own"""
    counted: jax.Array
    """[X] bool: a step of an episode after the burn-in"""
    advantage: jax.Array
    """[X] what the loss weighs log-probabilities with; 0 on padding"""
    target: jax.Array
    """[X] what the values are to learn, A + V, in units of return"""
    value: jax.Array
    """[X] V_t of the θ that collected the trial, in the policy's unit"""
    room: jax.Array
    """[2] int32: the `room` of the trial's episodes, and of those that count"""


class Weights(NamedTuple):
    """What the loss of a trial is made of."""

    clip: float
    """ε, the range of the ratio"""
    entropy: float | jax.Array
    value: float
    value_clip: float | None = None
    """how far the values' loss lets a value move from that of the data's θ, in the policy's unit; None: it may"""


def as_sequence(env: TaskEnv, trajectory: Trajectory, burn_in: int, discount: float = 1.0) -> Sequence:
    """The steps of one trial in their order, without the gaps that early ends leave.

    Args:
        env: whose actions they are.
        trajectory: leaves [H, T, ...], episode by episode.
        burn_in: K, episodes whose rewards do not count.
        discount: γ, by which every episode's rewards are discounted to its own start.

    Returns:
        The sequence, its advantage, target and value 0 as yet.
    """
    episodes, horizon = trajectory.valid.shape
    steps = episodes * horizon
    order = jnp.argsort(~trajectory.valid.reshape(-1), stable=True)
    flat = jax.tree.map(lambda leaf: leaf.reshape(steps, *leaf.shape[2:])[order], trajectory)
    episode, time = order // horizon, order % horizon
    counted = flat.valid & (episode >= burn_in)
    reward = jnp.where(flat.valid, flat.reward, 0)
    worth = as_at_start(jnp.ones_like(trajectory.reward), discount).reshape(steps)[order]

    def before(leaf):  # what the step before had; nothing before the first
        return jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf[:-1]])

    percept = Percept(
        observation=flat.observation,
        action=before(jax.vmap(lambda action: as_vector(env, action))(flat.action)),
        reward=before(reward),
        start=time == 0,
    )
    as_one = flat.replace(
        reward=jnp.where(counted, reward * worth, 0),
        discount=jnp.ones_like(flat.discount),
        truncated=jnp.zeros_like(flat.truncated),
    )
    as_one = jax.tree.map(lambda leaf: leaf[None], as_one)
    nothing = jnp.zeros_like(reward)
    room = jnp.stack([trajectory.room.sum(), trajectory.room[burn_in:].sum()])
    return Sequence(percept, as_one, counted, nothing, nothing, nothing, room)


class Replayed(NamedTuple):
    """What the policy makes of a fixed sequence, as a function of θ; each [X]."""

    log_prob: jax.Array
    entropy: jax.Array
    value: jax.Array
    """in the policy's unit"""


def replay_sequence(
    policy: RecurrentPolicy, theta: PyTree, sequence: Sequence, bptt: int | None = None, remat: bool = False
) -> Replayed:
    """The memory along ONE trial again, and what it makes the policy do, differentiable in θ.

    Args:
        policy: π_θ.
        theta: θ.
        sequence: of `as_sequence`.
        bptt: steps after which backpropagation through the memory is cut; None means never.
        remat: recompute the memory's steps in the backward pass instead of storing what they compute.
    """
    steps = sequence.counted.shape[0]

    def remember(state, now):
        index, percept = now
        if bptt is not None:
            cut = (index > 0) & (index % bptt == 0)  # the trial's start is θ's, and no memory
            state = jax.tree.map(lambda m: jnp.where(cut, jax.lax.stop_gradient(m), m), state)
        state = policy.remember(theta, state, percept)
        return state, state

    step = jax.checkpoint(remember) if remat else remember
    _, memories = jax.lax.scan(step, policy.start(theta), (jnp.arange(steps), sequence.percept))

    def act(state, observation, action):
        distribution, value = policy.act(theta, state, observation)
        return Replayed(distribution.log_prob(action), distribution.entropy(), value)

    return jax.vmap(act)(memories, sequence.percept.observation, sequence.trajectory.action[0])


def trial_loss(
    sequence: Sequence, replayed: Replayed, weights: Weights, scale: float
) -> tuple[Float[Array, ""], Metrics]:
    """−Σ_t clipped gain_t / (H−K)T − w_H Σ_t H(π_t) / HT + w_V Σ_t (V_t − target_t)² / (HT·scale²).

    The sums run over the steps taken, and the divisors are the sequence's `room`. The gain is that of
    `metarl_jax.outer.clipped`. With the trial's plain returns for advantages and both weights 0, the gradient at the
    behaviour's θ is minus that of the mean return of a counted episode, over T, however episodes end.
    Schulman et al. (2017, arXiv:1707.06347).

    With a range ε of the values the squared error is the larger one of V_t and of V_t cut to within ε of the data's θ's
    value, so that no gradient moves it further away than that.

    Args:
        sequence: with advantages and targets.
        replayed: of the θ in question.
        weights: of the terms.
        scale: units of return in the policy's unit of value.
    """
    valid = sequence.trajectory.valid[0]
    behavior = jax.lax.stop_gradient(sequence.trajectory.log_prob[0])
    ratio = jnp.where(valid, jnp.exp(jnp.where(valid, replayed.log_prob - behavior, 0)), 1)
    gain = clipped_gain(ratio, sequence.advantage, weights.clip)
    room, counted_room = sequence.room

    def total(values):
        return jnp.where(valid, values, 0).sum()

    # Where every counted episode is void there is nothing to gain.
    gain = jnp.where(counted_room > 0, total(gain) / jnp.maximum(counted_room, 1), 0)
    wanted, value, clip = sequence.target / scale, replayed.value, weights.value_clip
    errors = (value - wanted) ** 2
    if clip is not None:
        near = sequence.value + jnp.clip(value - sequence.value, -clip, clip)
        errors = jnp.maximum(errors, (near - wanted) ** 2)
    error = total(errors) / jnp.maximum(room, 1)
    entropy = total(replayed.entropy) / jnp.maximum(room, 1)
    metrics = {"ratio_min": ratio.min(), "ratio_max": ratio.max(), "critic_error": error}
    return -gain - weights.entropy * entropy + weights.value * error, metrics


def normalize_over_tasks(
    advantage: Float[Array, "B X"], target: Float[Array, "B X"], valid: Bool[Array, "B X"]
) -> Float[Array, "B X"]:
    """(A − mean) / (std + max |target| / 100) over the valid steps of ALL tasks; 0 on padding.

    An outer step, unlike an inner one, is one for all tasks; what tells good ones from bad ones is left to V. Where
    nothing is left to gain, A is the values' error, some hundredths of a return, which must not be blown up to size 1.
    """
    mean = masked_mean(advantage, valid)
    centered = jnp.where(valid, advantage - mean, 0)
    noise = 0.01 * jnp.where(valid, jnp.abs(target), 0).max()
    return centered / (jnp.sqrt(masked_mean(centered**2, valid)) + noise + 1e-8)
