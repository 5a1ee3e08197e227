"""D: episodes of one task, collected by scan. No gradient leaves this module.

Three ways to collect, one step: `rollout` runs episodes side by side, `trial` one after the other with a memory that
lives through all of them, and `unroll` goes on with environments where an earlier call left them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import soundness
from metarl_jax.base import Policy, RecurrentPolicy, TaskEnv
from metarl_jax.batching import one_axis
from metarl_jax.policies.likelihood import pad_with_first
from metarl_jax.types import Key, Percept, PyTree, Running, Trajectory, strongly_typed

Act = Callable[[PyTree, Percept], tuple[PyTree, Any]]
"""``(memory, percept) → (memory, distribution)``"""

Step = Callable[[PyTree, PyTree, jax.Array], PyTree]
"""``(task, state, action) → state``, the environment's, perhaps batched in a way of its own"""


@struct.dataclass
class _Past:
    """What one step hands to the next beside the environment's state, within an episode and from one to the next."""

    memory: PyTree
    action: jax.Array
    """[A] the action before, one-hot where actions are discrete; 0 before the first one"""
    reward: jax.Array
    """[] the reward before; 0 before the first one"""


def _unborn(env: TaskEnv, memory: PyTree) -> _Past:
    return _Past(memory, jnp.zeros(env.action_size, float), jnp.zeros((), float))


def _where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _promoted(tree: PyTree, other: PyTree) -> PyTree:
    """`tree` with every leaf in the dtype that holds both its own values and those of `other`."""

    def promote(leaf, partner):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
            dtype = jnp.promote_types(dtype, jnp.result_type(partner))
        return jax.lax.convert_element_type(leaf, dtype)

    return jax.tree.map(promote, tree, other)


def _start(key: Key, env: TaskEnv, task: PyTree) -> PyTree:
    """The state of a fresh episode, in the types that steps return too.

    Raises:
        ValueError: reset and step do not fit.
    """
    with jax.named_scope("physics"):
        start = env.reset(key, task)
    soundness.check_state(env, "reset", start)
    # `reset` may say 0 where `step` returns a float; casting to either one's type could cut values.
    action = jnp.zeros((), int) if env.discrete else jnp.zeros(env.action_size, float)
    # Jitted, so that asking for its shapes and scanning it trace the environment once, not twice.
    shape_of_next = jax.eval_shape(jax.jit(env.step), task, start, action)
    soundness.check_state(env, "step", shape_of_next)
    soundness.check_same(env, start, shape_of_next)
    return strongly_typed(_promoted(start, shape_of_next))


def _run(
    key: Key,
    env: TaskEnv,
    step_env: Step,
    act: Act,
    task: PyTree,
    past: _Past,
    begun: Running,
    steps: int,
    horizon: int,
) -> tuple[_Past, Running, dict[str, jax.Array]]:
    """At most `steps` steps of one episode, from where it stands to its end; what comes after the end is padding.

    Where the simulation diverges the whole piece is void, and the past is that of its start.

    Returns:
        past, environment, and the fields of a `Trajectory`, leaves [steps, ...], padding not yet made harmless.
    """
    whole = soundness.witnessed(
        soundness.within(begun.state.observation, soundness.MOST_OBSERVATION), "at reset", begun.state
    )

    def seen(state):  # what is carried is finite, but for a reset that was not; then the policy sees zeros
        return jax.tree.map(lambda leaf: jnp.where(whole, leaf, jnp.zeros_like(leaf)), state.observation)

    def decide(key, past, state, first):
        observation = seen(state)
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
    able = soundness.within(decide(keys[0], past, begun.state, begun.time == 0)[2], jnp.inf)

    def step(carry, key):
        state, past, time, running, sound = carry
        observation, memory, action, log_prob = decide(key, past, state, time == 0)
        with jax.named_scope("physics"):
            following = _promoted(step_env(task, state, action), state)
        # Padding may diverge: nothing of it is kept.
        holds = soundness.witnessed(~(running & able) | soundness.sane(following), "after a step", following)
        sound, running = sound & holds, running & holds
        over = jnp.asarray(following.terminated, bool) | jnp.asarray(following.truncated, bool)
        reward = jnp.where(running, jnp.asarray(following.reward, float), 0.0)
        record = {"observation": observation, "action": action, "log_prob": log_prob, "reward": reward}
        # An ended episode stands still, so that no padding can diverge.
        lately = _Past(memory, as_vector(env, action), reward)
        state, past = _where(running, (following, lately), (state, past))
        time = time + running
        return (state, past, time, running & ~over & (time < horizon), sound), record

    carry = (begun.state, past, begun.time, whole, whole)
    (state, after, time, running, sound), record = jax.lax.scan(step, carry, keys)
    # A step led to what the next one saw, and the state that stood still says how the episode ended. An accelerator is
    # the faster the fewer fields a step records: each is a kernel.
    number, taken = jnp.arange(steps), time - begun.time
    last, terminated = number == taken - 1, jnp.asarray(state.terminated, bool)
    valid = (number < taken) & sound
    path = record["observation"]
    reached = jax.tree.map(lambda leaf, end: jnp.concatenate([leaf[1:], end[None]]), path, state.observation)
    record |= {
        # What a broken simulation led to may be NaN, or finite and close to overflow.
        "next_observation": _where(sound, reached, path),
        "discount": jnp.where(last & terminated, 0.0, 1.0),
        "truncated": last & jnp.asarray(state.truncated, bool) & ~terminated,
        "valid": valid,
        "reward": jnp.where(valid, record["reward"], 0),
    }
    return _where(sound, after, past), Running(state, time, ~(running & sound)), record


def as_vector(env: TaskEnv, action: jax.Array) -> jax.Array:
    """[A] an action as a memory sees it: one-hot where actions are discrete."""
    return jax.nn.one_hot(action, env.action_size, dtype=float) if env.discrete else jnp.asarray(action, float)


def _trajectory(steps: dict[str, Any]) -> Trajectory:
    """Leaves [N, T, ...] of pieces side by side, with harmless padding, cut from the gradient's graph."""
    # The reward of padding is 0, not the first step's.
    unpadded = {name: steps.pop(name) for name in ("reward", "valid")}
    return jax.lax.stop_gradient(Trajectory(**pad_with_first(steps, unpadded["valid"]), **unpadded))


def _memoryless(policy: Policy, params: PyTree) -> Act:
    return lambda memory, percept: (memory, policy.apply(params, percept.observation))


@jax.named_scope("rollout")
def rollout(
    key: Key, env: TaskEnv, policy: Policy, params: PyTree, task: PyTree, episodes: int, horizon: int
) -> Trajectory:
    """N = `episodes` episodes of at most T = `horizon` steps in one task, each from its own reset draw.

    There is no auto-reset: an episode that ends early is padded and masked, so every episode counts once.

    A simulation has diverged once its observation is NaN or beyond ±1e8, at reset or after a step, or a step's reward
    is NaN or beyond ±1e14.
    It stands still from there on, and the whole episode is void, see `Trajectory`. Where the episode's very first
    action is not finite, the policy has failed and not the simulation: that is not hidden, and recorded as it is.

    Args:
        key: episode n draws from ``fold_in(key, n)``, whatever N is.
        env: the environment.
        policy: the behaviour policy.
        params: its parameters φ.
        task: of which all episodes are.
        episodes: N.
        horizon: T.

    Returns:
        Leaves [N, T, ...], cut from the gradient's graph.

    Raises:
        ValueError: it is no task of the environment, the environment's states or the policy's distribution lack a
            field, or their shapes or types do not fit.
    """
    task = soundness.check_task(env, task)
    act, step_env = _memoryless(policy, params), one_axis(jax.jit(env.step))

    def episode(key):
        reset_key, action_key = jax.random.split(key)
        begun = _fresh(reset_key, env, task)
        return _run(action_key, env, step_env, act, task, _unborn(env, ()), begun, horizon, horizon)[2]

    return _trajectory(jax.vmap(episode)(_numbered(key, episodes)))


def _numbered(key: Key, count: int) -> Key:
    return jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(count))


def _fresh(key: Key, env: TaskEnv, task: PyTree) -> Running:
    return Running(_start(key, env, task), jnp.zeros((), jnp.int32), jnp.zeros((), bool))


@jax.named_scope("rollout")
def trial(
    key: Key,
    env: TaskEnv,
    policy: RecurrentPolicy,
    params: PyTree,
    task: PyTree,
    episodes: int,
    horizon: int,
    kept: Callable[[PyTree, Trajectory], PyTree],
) -> tuple[PyTree, PyTree]:
    """H = `episodes` episodes of one task one after the other: the memory is reset before the first one only.

    The policy sees its last action and reward, those of the episode before included, and a flag at every episode's
    first step. Padding and void episodes leave no trace in the memory, so it is a function of the valid steps alone.

    Args:
        key: episode n draws from ``fold_in(key, n)``, whatever H is.
        env: the environment.
        policy: the behaviour policy.
        params: its parameters θ.
        task: of which all episodes are.
        episodes: H.
        horizon: T.
        kept: ``(memory after an episode, the episode, leaves [1, T, ...]) → what is kept of it``.

    Returns:
        The memory after the trial, and what was kept, leaves [H, ...]; all of it cut from the gradient's graph.

    Raises:
        ValueError: as in `rollout`.
    """
    # Episodes come one after the other, so there is one axis already: that of the tasks.
    task, step_env = soundness.check_task(env, task), jax.jit(env.step)

    def act(memory, percept):
        memory = policy.remember(params, memory, percept)
        return memory, policy.act(params, memory, percept.observation)[0]

    def episode(past, key):
        reset_key, action_key = jax.random.split(key)
        begun = _fresh(reset_key, env, task)
        past, _, steps = _run(action_key, env, step_env, act, task, past, begun, horizon, horizon)
        return past, kept(past.memory, _trajectory(jax.tree.map(lambda leaf: leaf[None], steps)))

    past, seen = jax.lax.scan(episode, _unborn(env, policy.start(params)), _numbered(key, episodes))
    return jax.lax.stop_gradient((past.memory, seen))


def waiting(key: Key, env: TaskEnv, task: PyTree, count: int) -> Running:
    """N = `count` environments whose episodes have not begun: the first `unroll` resets them; leaves [N, ...]."""
    task = soundness.check_task(env, task)

    def one(key):
        fresh = _fresh(key, env, task)
        return Running(fresh.state, fresh.time, jnp.ones((), bool))

    return jax.vmap(one)(_numbered(key, count))


@jax.named_scope("rollout")
def unroll(
    key: Key, env: TaskEnv, policy: Policy, params: PyTree, task: PyTree, environments: Running, steps: int
) -> tuple[Running, Trajectory]:
    """The next T = `steps` steps of N environments of one task that go on where the last call left them.

    A row of D is a piece of ONE episode: after the episode's end, by termination, truncation or the environment's
    horizon, the row is padding, and the next call begins with a fresh reset. A piece that ends before its episode does
    is marked as truncated at its last step, so that what is still to come is bootstrapped there.

    Args:
        key: row n draws from ``fold_in(key, n)``.
        env: the environment; its `horizon` ends an episode.
        policy: the behaviour policy.
        params: its parameters φ.
        task: of which all environments are.
        environments: leaves [N, ...], from `waiting` or the last call.
        steps: T.

    Returns:
        The environments after the steps, and D, leaves [N, T, ...], cut from the gradient's graph.

    Raises:
        ValueError: as in `rollout`.
    """
    task = soundness.check_task(env, task)
    act, step_env = _memoryless(policy, params), one_axis(jax.jit(env.step))

    def piece(key, begun):
        reset_key, action_key = jax.random.split(key)
        begun = _where(begun.over, _fresh(reset_key, env, task), begun)
        _, running, record = _run(action_key, env, step_env, act, task, _unborn(env, ()), begun, steps, env.horizon)
        cut = ~running.over & (jnp.arange(steps) == steps - 1)
        return running, record | {"truncated": record["truncated"] | cut}

    running, record = jax.vmap(piece)(_numbered(key, environments.over.shape[0]), environments)
    return jax.lax.stop_gradient(running), _trajectory(record)
