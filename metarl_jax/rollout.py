"""Collects D, the episodes of one task, by scan. No gradient leaves this module.

Three functions share one step. `rollout` runs independent episodes in parallel. `trial` runs episodes in sequence, with
a memory that persists across them. `unroll` continues environments from where an earlier call stopped.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import soundness
from metarl_jax.actions import as_vector, vector_size
from metarl_jax.base import Policy, RecurrentPolicy, TaskEnv
from metarl_jax.batching import one_axis
from metarl_jax.envs.starts import first_state, promoted
from metarl_jax.policies.likelihood import pad_with_first
from metarl_jax.types import Key, Percept, PyTree, Running, Trajectory, numbered, tree_where

Act = Callable[[PyTree, Percept], tuple[PyTree, Any]]
"""``(memory, percept) → (memory, distribution)``"""

Step = Callable[[PyTree, PyTree, jax.Array], PyTree]
"""``(task, state, action) → state``: the environment's step, possibly with its own batching rule"""


@struct.dataclass
class _Past:
    """Passed from one step to the next in addition to the environment's state, also across episodes."""

    memory: PyTree
    action: jax.Array
    """[A] the previous action, one-hot for discrete actions; 0 before the first action"""
    reward: jax.Array
    """[] the previous reward; 0 before the first step"""


def _no_past(env: TaskEnv, memory: PyTree) -> _Past:
    return _Past(memory, jnp.zeros(vector_size(env), float), jnp.zeros((), float))


def _run(
    key: Key, env: TaskEnv, step_env: Step, act: Act, task: PyTree, past: _Past, init: Running, steps: int, horizon: int
) -> tuple[_Past, Running, dict[str, jax.Array]]:
    """Runs one episode from its current state for up to `steps` steps; steps after its end are padding.

    If the simulation diverges, the whole piece is void and the past is reset to its value at the start.

    Four flags decide what is recorded: `start_ok` (the observation at the start is within bounds), `policy_ok` (the
    first action is finite), `episode_ok` (no divergence so far), `active` (the next step belongs to the episode).

        start_ok  policy_ok  episode_ok  active   meaning
        yes       yes        yes         yes      running: the next step is taken and valid
        yes       yes        yes         no       ended (terminated, truncated or at the horizon): padding follows
        yes       yes        no          no       a step diverged: the whole piece is void
        yes       no         yes         yes/no   the policy failed: steps are recorded as they are, without the
                                                  divergence check, so that the failure is visible in the data
        no        any        no          no       the start diverged: void, the policy is shown zeros

    Returns:
        The past, the environment, and the fields of a `Trajectory`, leaves [steps, ...], padding not yet filled in.
    """
    start_ok = soundness.witnessed(
        soundness.within(init.state.observation, soundness.MOST_OBSERVATION), "at reset", init.state
    )

    def policy_input(state):  # carried states are finite, except after a diverged reset: then the policy sees zeros
        return jax.tree.map(lambda leaf: jnp.where(start_ok, leaf, jnp.zeros_like(leaf)), state.observation)

    def decide(key, past, state, first):
        observation = policy_input(state)
        percept = Percept(observation=observation, action=past.action, reward=past.reward, start=first)
        memory, distribution = act(past.memory, percept)
        for method in ("sample", "log_prob"):
            if not hasattr(distribution, method):
                raise ValueError(
                    f"the policy's apply returns a {type(distribution).__name__} without {method!r}; return a "
                    "distribution, such as metarl_jax.policies.DiagonalGaussian"
                )
        action = distribution.sample(key)
        log_prob = distribution.log_prob(action)
        soundness.check_action(env, distribution, action, log_prob)
        return observation, memory, action, log_prob

    keys = jax.random.split(key, steps)
    policy_ok = soundness.within(decide(keys[0], past, init.state, init.time == 0)[2], jnp.inf)

    def step(carry, key):
        state, past, time, active, episode_ok = carry
        observation, memory, action, log_prob = decide(key, past, state, time == 0)
        with jax.named_scope("physics"):
            next_state = promoted(step_env(task, state, action), state)
        # Padding may diverge: its results are discarded.
        step_ok = soundness.witnessed(~(active & policy_ok) | soundness.sane(next_state), "after a step", next_state)
        episode_ok, active = episode_ok & step_ok, active & step_ok
        done = jnp.asarray(next_state.terminated, bool) | jnp.asarray(next_state.truncated, bool)
        reward = jnp.where(active, jnp.asarray(next_state.reward, float), 0.0)
        record = {"observation": observation, "action": action, "log_prob": log_prob, "reward": reward}
        # A finished episode keeps its last state.
        new_past = _Past(memory, as_vector(env, action), reward)
        state, past = tree_where(active, (next_state, new_past), (state, past))
        time = time + active
        return (state, past, time, active & ~done & (time < horizon), episode_ok), record

    carry = (init.state, past, init.time, start_ok, start_ok)
    (state, after, time, active, episode_ok), record = jax.lax.scan(step, carry, keys)
    # The next observation of a step is the observation of the following step, and the final state says how the episode
    # ended. Fewer recorded fields are faster on an accelerator: each costs a kernel per step.
    number, steps_taken = jnp.arange(steps), time - init.time
    last, terminated = number == steps_taken - 1, jnp.asarray(state.terminated, bool)
    valid = (number < steps_taken) & episode_ok
    path = record["observation"]
    next_path = jax.tree.map(lambda leaf, end: jnp.concatenate([leaf[1:], end[None]]), path, state.observation)
    record |= {  # The next observation of a diverged simulation may be NaN, or finite and close to overflow.
        "next_observation": tree_where(episode_ok, next_path, path),
        "discount": jnp.where(last & terminated, 0.0, 1.0),
        "truncated": last & jnp.asarray(state.truncated, bool) & ~terminated & (time < horizon),
        "valid": valid,
        "reward": jnp.where(valid, record["reward"], 0),
    }
    return tree_where(episode_ok, after, past), Running(state, time, ~(active & episode_ok)), record


def _trajectory(steps: dict[str, Any]) -> Trajectory:
    """Pads the pieces with their first step and stops gradients; leaves [N, T, ...]."""
    # Padding has reward 0, not the reward of the first step.
    unpadded = {name: steps.pop(name) for name in ("reward", "valid")}
    return jax.lax.stop_gradient(Trajectory(**pad_with_first(steps, unpadded["valid"]), **unpadded))


def _memoryless(policy: Policy, params: PyTree) -> Act:
    return lambda memory, percept: (memory, policy.apply(params, percept.observation))


@jax.named_scope("rollout")
def rollout(
    key: Key, env: TaskEnv, policy: Policy, params: PyTree, task: PyTree, episodes: int, horizon: int
) -> Trajectory:
    """Runs N = `episodes` episodes of at most T = `horizon` steps in one task, each from its own reset.

    There is no auto-reset: an episode that ends early is padded and masked, so each episode counts once.

    A simulation has diverged if its observation is NaN or beyond ±1e8, at reset or after a step, or if a reward is NaN
    or beyond ±1e14. Its state is frozen from then on, and the whole episode is void, see `Trajectory`. If the first
    action of an episode is not finite, the policy has failed, not the simulation; such an episode is recorded as it is.

    Args:
        key: episode n draws from ``fold_in(key, n)``, independent of N.
        env: the environment.
        policy: the behaviour policy.
        params: its parameters φ.
        task: the task of all episodes.
        episodes: N.
        horizon: T.

    Returns:
        Leaves [N, T, ...], without gradient.

    Raises:
        ValueError: the task does not match the environment, a field or method is missing in the environment's states or
            the policy's distribution, or their shapes or dtypes do not match.
    """
    task = soundness.check_task(env, task)
    act, step_env = _memoryless(policy, params), one_axis(jax.jit(env.step))

    def episode(key):
        reset_key, action_key = jax.random.split(key)
        start = _fresh(reset_key, env, task)
        return _run(action_key, env, step_env, act, task, _no_past(env, ()), start, horizon, horizon)[2]

    return _trajectory(jax.vmap(episode)(numbered(key, episodes)))


def _fresh(key: Key, env: TaskEnv, task: PyTree) -> Running:
    return Running(first_state(key, env, task), jnp.zeros((), jnp.int32), jnp.zeros((), bool))


@jax.named_scope("rollout")
def trial(
    key: Key,
    env: TaskEnv,
    policy: RecurrentPolicy,
    params: PyTree,
    task: PyTree,
    episodes: int,
    horizon: int,
    kept: Callable[..., PyTree],
    also: RecurrentPolicy | None = None,
) -> tuple[PyTree, PyTree]:
    """Runs H = `episodes` episodes of one task in sequence; the memory is reset only before the first.

    The policy sees its previous action and reward, also across episodes, and a flag at the first step of each episode.
    Padding and void episodes do not change the memory, so it is a function of the valid steps alone.

    Args:
        key: episode n draws from ``fold_in(key, n)``, independent of H.
        env: the environment.
        policy: the behaviour policy.
        params: its parameters θ.
        task: the task of all episodes.
        episodes: H.
        horizon: T.
        kept: ``(memory after an episode, the episode with leaves [1, T, ...]) → the record to keep of it``.
        also: a policy that plays each episode too, from the same start, draws and memory: a third argument of `kept`.

    Returns:
        The memory after the trial, and the records, leaves [H, ...]; both without gradient.

    Raises:
        ValueError: as in `rollout`.
    """
    # Episodes run in sequence, so there is only one batch axis: tasks.
    task, step_env = soundness.check_task(env, task), jax.jit(env.step)

    def episode(past, key):
        reset_key, action_key = jax.random.split(key)
        start = _fresh(reset_key, env, task)

        def play(policy):
            def act(memory, percept):
                memory = policy.remember(params, memory, percept)
                return memory, policy.act(params, memory, percept.observation)[0]

            after, _, steps = _run(action_key, env, step_env, act, task, past, start, horizon, horizon)
            return after, _trajectory(jax.tree.map(lambda leaf: leaf[None], steps))

        after, trajectory = play(policy)
        return after, kept(after.memory, trajectory, *(() if also is None else (play(also)[1],)))

    past, records = jax.lax.scan(episode, _no_past(env, policy.start(params)), numbered(key, episodes))
    return jax.lax.stop_gradient((past.memory, records))


def waiting(key: Key, env: TaskEnv, task: PyTree, count: int) -> Running:
    """N = `count` environments that the first call of `unroll` will reset; leaves [N, ...]."""
    task = soundness.check_task(env, task)

    def one(key):
        return dataclasses.replace(_fresh(key, env, task), over=jnp.ones((), bool))

    return jax.vmap(one)(numbered(key, count))


@jax.named_scope("rollout")
def unroll(
    key: Key, env: TaskEnv, policy: Policy, params: PyTree, task: PyTree, environments: Running, steps: int
) -> tuple[Running, Trajectory]:
    """Runs N environments of one task for T = `steps` steps from where the last call stopped.

    A row of D is a piece of ONE episode. If the episode ends, by termination, truncation or the environment's horizon,
    the rest of the row is padding and the next call starts with a reset. If the piece ends before its episode does, its
    last step is marked as truncated, so that the remaining return is bootstrapped there.

    Args:
        key: row n draws from ``fold_in(key, n)``.
        env: the environment; its `horizon` bounds the length of an episode.
        policy: the behaviour policy.
        params: its parameters φ.
        task: the task of all environments.
        environments: leaves [N, ...], from `waiting` or the previous call.
        steps: T.

    Returns:
        The environments after the steps, and D with leaves [N, T, ...]; both without gradient.

    Raises:
        ValueError: as in `rollout`.
    """
    task = soundness.check_task(env, task)
    act, step_env = _memoryless(policy, params), one_axis(jax.jit(env.step))

    def piece(key, environment):
        reset_key, action_key = jax.random.split(key)
        environment = tree_where(environment.over, _fresh(reset_key, env, task), environment)
        how = step_env, act, task, _no_past(env, ()), environment, steps, env.horizon
        _, environment, record = _run(action_key, env, *how)
        cut = ~environment.over & (jnp.arange(steps) == steps - 1)
        return environment, record | {"truncated": record["truncated"] | cut}

    environments, record = jax.vmap(piece)(numbered(key, environments.over.shape[0]), environments)
    return jax.lax.stop_gradient(environments), _trajectory(record)
