"""Running normalisation of observations and rewards, for any algorithm.

The environment is normalised, so collection, inner steps, replay, baselines, memories and deployment all see the same
numbers. The statistics are part of θ, beside what the algorithm learns, and no gradient, optimiser or noise moves them.
They are constant within a meta-iteration, and are updated from its data at its end.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.base import MetaAlgorithm, Online, Policy, TaskEnv
from metarl_jax.entry import entry_points
from metarl_jax.envs.starts import first_observation
from metarl_jax.envs.state import View
from metarl_jax.moments import Moments, gains, moments_of, nothing_seen
from metarl_jax.observations import is_byte_picture, without_dtypes
from metarl_jax.soundness import MOST_OBSERVATION, MOST_REWARD, PRIVATE, measured
from metarl_jax.types import Adaptation, Metrics, Number, PyTree, Trajectory, strongly_typed

_MOMENTS = PRIVATE[0]
_FAR = 1e7
"""standard deviations within which a normalised observation stays, so that no sound one is taken for divergence"""


@struct.dataclass
class Statistics:
    """What is normalised with; None: not normalised."""

    observation: Moments | None
    """of each component of the observations, over all valid steps"""
    gain: Moments | None
    """of the discounted reward so far, g_t = γ g_{t−1} + r_t, in raw units; its mean is not used"""
    unit_before: jax.Array | None = None
    """[] the divisor of the rewards in the last meta-iteration; None: rewards are not normalised"""


@struct.dataclass
class Normalized:
    """θ or φ of an algorithm that normalises."""

    params: PyTree
    """what the algorithm learns"""
    statistics: Statistics


def _merged(statistics: Statistics, seen: Moments | None, gain: Moments | None) -> Statistics:
    """The statistics after a meta-iteration with these moments."""
    if statistics.observation is not None and seen is not None:
        seen = statistics.observation.merged(seen)
    if statistics.gain is None or gain is None:
        return Statistics(seen, None)
    return Statistics(seen, statistics.gain.merged(gain), _unit(statistics))


def _normal_observation(statistics: Statistics, observation: PyTree) -> PyTree:
    seen = statistics.observation
    if seen is None:
        return observation

    def of_leaf(x, mean, scale):
        sound = jnp.abs(x) <= MOST_OBSERVATION  # the limit is one of raw numbers
        return jnp.where(sound, jnp.clip((x - mean) / scale, -_FAR, _FAR), jnp.nan)

    return jax.tree.map(of_leaf, observation, seen.mean, seen.scale)


def _raw_observation(statistics: Statistics, observation: PyTree, raw: PyTree) -> PyTree:
    """In the dtypes of `raw`."""
    seen = statistics.observation
    if seen is None:
        return observation

    def of_leaf(y, mean, scale, raw):
        x = mean + scale * y
        return x if jnp.issubdtype(raw.dtype, jnp.inexact) else jnp.round(x).astype(raw.dtype)

    return jax.tree.map(of_leaf, observation, seen.mean, seen.scale, raw)


def _unit(statistics: Statistics) -> jax.Array:
    """The divisor of the rewards."""
    return jnp.ones((), float) if statistics.gain is None else statistics.gain.scale


def _view(statistics: Statistics, state: Any) -> View:
    """The state of the environment in normalised units; leaves may have leading axes."""
    reward = jnp.asarray(state.reward, float)
    reward = jnp.where(jnp.abs(reward) <= MOST_REWARD, reward / _unit(statistics), jnp.nan)
    return View(_normal_observation(statistics, state.observation), reward, state.terminated, state.truncated, state)


def _in_units_of(statistics: Statistics, opt_state: PyTree) -> PyTree:
    """Where agents live on, their environments, in whose states stand numbers in older units, in today's."""
    if not hasattr(opt_state, "population"):
        return opt_state
    environments = opt_state.population.environments
    state = strongly_typed(_view(statistics, environments.state.inner))
    environments = dataclasses.replace(environments, state=state)
    return dataclasses.replace(
        opt_state, population=dataclasses.replace(opt_state.population, environments=environments)
    )


def _normal_env(env: TaskEnv, statistics: Statistics, discount: Number) -> TaskEnv:
    """The environment in normalised units; its `measure` also gives the data's moments, in raw units."""

    def view(state):
        return _view(statistics, state)

    def measure(trajectory):
        seen, gain = statistics.observation, statistics.gain
        if seen is not None:
            seen = moments_of(trajectory.observation, trajectory.valid).shifted(seen.mean, seen.scale)
        if gain is not None:
            gain = moments_of(gains(trajectory, discount), trajectory.valid).shifted(0.0, gain.scale)
        own = {} if env.measure is None else measured(env.measure, _raw(env, statistics, trajectory))
        return own | {_MOMENTS: (seen, gain)}

    scene = env.scene
    return dataclasses.replace(
        env,
        reset=lambda key, task: view(env.reset(key, task)),
        step=lambda task, state, action: view(env.step(task, state.inner, action)),
        observation_shape=without_dtypes(env.observation_shape),  # they are real numbers then
        measure=measure,
        scene=None if scene is None else lambda task, state: scene(task, state.inner),
    )


def _no_observation(env: TaskEnv) -> Moments:
    """Of no step; a picture of bytes is then divided by 255, as it is without normalisation."""
    like = first_observation(env)
    nothing = nothing_seen(like)
    bytes_as_seen = jax.tree.map(lambda leaf, zero: zero + 255.0**2 * is_byte_picture(leaf), like, nothing.variance)
    return dataclasses.replace(nothing, variance=bytes_as_seen)


def _raw(env: TaskEnv, statistics: Statistics, trajectory: Trajectory) -> Trajectory:
    """A trajectory of the normalised environment in raw units."""
    first = first_observation(env)
    return dataclasses.replace(
        trajectory,
        observation=_raw_observation(statistics, trajectory.observation, first),
        next_observation=_raw_observation(statistics, trajectory.next_observation, first),
        reward=trajectory.reward * _unit(statistics),
    )


def _normal(statistics: Statistics, trajectory: Trajectory) -> Trajectory:
    """A trajectory in raw units as the normalised environment would have given it."""
    return dataclasses.replace(
        trajectory,
        observation=_normal_observation(statistics, trajectory.observation),
        next_observation=_normal_observation(statistics, trajectory.next_observation),
        reward=trajectory.reward / _unit(statistics),
    )


def normalized(
    build: Callable[[TaskEnv], MetaAlgorithm],
    env: TaskEnv,
    *,
    observations: bool = True,
    rewards: bool = False,
    discount: Number = 0.99,
) -> MetaAlgorithm:
    """The algorithm that `build` makes, with running normalisation: s ← (s − mean) / std, r ← r / std(g).

    Mean and standard deviation of each component of the observations are over all valid steps of training, and g_t =
    γ g_{t−1} + r_t is the discounted reward of an episode so far, or of a piece of it where agents live on. In the
    first meta-iteration both are left as they are, and a picture of bytes is divided by 255. Components that never
    change are only centred. Nothing is clipped within 10⁷ standard deviations. What agents that live on have not
    learned from stays in the units of its collection.

    θ is a `Normalized`: what the algorithm learns, and the statistics. Returns in metrics and in `adapt`, and the
    trajectories of `adapt`, are in raw units; losses and the numbers of a critic are in normalised ones.

    Args:
        build: makes the algorithm for an environment; it is called again where statistics have changed.
        env: p(M) and its MDPs, in raw units.
        observations: whether observations are normalised.
        rewards: whether rewards are divided by the standard deviation of g.
        discount: γ of g.
    """
    plain = build(env)

    def within(statistics: Statistics) -> MetaAlgorithm:
        return build(_normal_env(env, statistics, discount))

    def unseen() -> Statistics:
        seen = _no_observation(env) if observations else None
        if not rewards:
            return Statistics(seen, None)
        return Statistics(seen, nothing_seen(jax.ShapeDtypeStruct((), float)), jnp.ones((), float))

    def init(key):
        statistics = unseen()
        state = within(statistics).init(key)
        return dataclasses.replace(state, params=Normalized(state.params, statistics))

    def update(key, state):
        statistics = state.params.statistics
        before = _in_units_of(statistics, state.opt_state)
        plain_state = dataclasses.replace(state, params=state.params.params, opt_state=before)
        after, metrics = within(statistics).update(key, plain_state)
        metrics = dict(metrics)
        merged = _merged(statistics, *metrics.pop(_MOMENTS))
        return dataclasses.replace(after, params=Normalized(after.params, merged)), _in_raw_units(
            metrics, statistics, getattr(before, "population", None)
        )

    def gradient(key, theta):
        ascent, metrics = within(theta.statistics).gradient(key, theta.params)
        metrics = {name: value for name, value in metrics.items() if name != _MOMENTS}
        still = jax.tree.map(jnp.zeros_like, theta.statistics)
        return Normalized(ascent, still), _in_raw_units(metrics, theta.statistics)

    def adapt(key, theta, task, steps, deterministic=False):
        statistics = theta.statistics
        also = {"deterministic": True} if deterministic else {}  # a user's own `adapt` need not take it
        out: Adaptation = within(statistics).adapt(key, theta.params, task, steps, **also)
        by_mode = out.by_mode
        return dataclasses.replace(
            out,
            params=Normalized(out.params, statistics),
            returns=out.returns * _unit(statistics),
            trajectory=_raw(env, statistics, out.trajectory),
            by_mode=by_mode and dataclasses.replace(by_mode, returns=by_mode.returns * _unit(statistics)),
        )

    policy = None if plain.policy is None else _policy(plain.policy, unseen)
    online = None if plain.online is None else _online(plain.online, within)
    return entry_points(init, update, adapt, gradient, policy, online)


def _in_raw_units(metrics: Metrics, statistics: Statistics, population: PyTree = None) -> Metrics:
    """With "return" and "gain" in raw units.

    Where agents live on, their stage 0 was collected by the meta-iteration before, in its units, unless all are new.
    """
    unit = jnp.full_like(metrics["return"], _unit(statistics))
    if population is not None and statistics.unit_before is not None:
        all_new = metrics["renewed"] >= len(population.age)
        unit = unit.at[0].set(jnp.where(all_new, unit[0], statistics.unit_before))
    returns = metrics["return"] * unit
    return metrics | {"return": returns, "gain": returns[-1] - returns[0]}


def _policy(policy: Policy, unseen: Callable[[], Statistics]) -> Policy:
    """The policy for raw observations, with parameters that hold the statistics."""
    labels = policy.labels

    def labelled(phi):
        assert labels is not None
        return Normalized(labels(phi.params), jax.tree.map(lambda _: "statistics", phi.statistics))

    return Policy(
        init=lambda key: Normalized(policy.init(key), unseen()),
        apply=lambda phi, observation: policy.apply(phi.params, _normal_observation(phi.statistics, observation)),
        labels=None if labels is None else labelled,
    )


def _online(online: Online, within: Callable[[Statistics], MetaAlgorithm]) -> Online:
    """`online` for an environment that runs outside of the program, in raw units."""

    def inside(theta) -> Online:
        inner = within(theta.statistics).online
        assert inner is not None
        return inner

    def act(theta, fast, percept):
        percept = dataclasses.replace(
            percept,
            observation=_normal_observation(theta.statistics, percept.observation),
            reward=percept.reward / _unit(theta.statistics),
        )
        return inside(theta).act(theta.params, fast, percept)

    def learn(theta, fast, trajectory):
        inner = inside(theta).learn
        assert inner is not None
        return inner(theta.params, fast, _normal(theta.statistics, trajectory))

    return online._replace(
        start=lambda key, theta: inside(theta).start(key, theta.params),
        act=act,
        params=lambda theta, fast: Normalized(inside(theta).params(theta.params, fast), theta.statistics),
        learn=None if online.learn is None else learn,
    )
