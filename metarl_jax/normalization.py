"""Running normalisation of observations and rewards, for any algorithm.

The environment is normalised, so collection, inner steps, replay, baselines, memories and deployment all see the same
numbers. The statistics are part of θ, beside what the algorithm learns, and no gradient, optimiser or noise moves them.
They are constant within a meta-iteration, and are updated from its data at its end.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax.base import MetaAlgorithm, Online, Policy, TaskEnv
from metarl_jax.entry import entry_points
from metarl_jax.envs.state import View
from metarl_jax.keywords import while_tracing
from metarl_jax.observations import without_dtypes
from metarl_jax.types import Adaptation, Metrics, PyTree, Trajectory

_MOMENTS = "normalization/moments"
"""the metric by which the data's moments leave an algorithm's `update`; taken out of its metrics"""
_CONSTANT = 1e-6
"""standard deviation, in units of 1 + |mean|, below which a component counts as constant and is only centred"""


@struct.dataclass
class Moments:
    """Count, mean and variance of the numbers seen; mean and variance are trees like one observation, or [] each."""

    count: jax.Array
    """[] float: steps seen"""
    mean: PyTree
    variance: PyTree

    @property
    def scale(self) -> PyTree:
        """The standard deviations; 1 where nothing was seen, or nothing but one value."""

        def of_leaf(mean, variance):
            deviation = jnp.sqrt(variance)
            return jnp.where(deviation > _CONSTANT * (1 + jnp.abs(mean)), deviation, 1)

        return jax.tree.map(of_leaf, self.mean, self.variance)

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both samples together: Chan, Golub, LeVeque (1983)."""
        count = self.count + other.count
        share = other.count / jnp.maximum(count, 1)

        def mean(a, b):
            return a + share * (b - a)

        def variance(a, b, mean_a, mean_b):
            return a + share * (b - a) + share * (1 - share) * (mean_b - mean_a) ** 2

        return Moments(
            count,
            jax.tree.map(mean, self.mean, other.mean),
            jax.tree.map(variance, self.variance, other.variance, self.mean, other.mean),
        )

    def shifted(self, mean: PyTree, scale: PyTree) -> "Moments":
        """The moments of mean + scale · y, where these are those of y."""
        means = jax.tree.map(lambda m, s, y: m + s * y, mean, scale, self.mean)
        return Moments(self.count, means, jax.tree.map(lambda s, y: s**2 * y, scale, self.variance))


@struct.dataclass
class Statistics:
    """What is normalised with; None: not normalised."""

    observation: Moments | None
    """of each component of the observations, over all valid steps"""
    gain: Moments | None
    """of the discounted reward so far, g_t = γ g_{t−1} + r_t, in raw units; its mean is not used"""


@struct.dataclass
class Normalized:
    """θ or φ of an algorithm that normalises."""

    params: PyTree
    """what the algorithm learns"""
    statistics: Statistics


def _nothing_seen(like: PyTree) -> Moments:
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, float), like)
    return Moments(jnp.zeros((), float), zeros, zeros)


def _moments(values: PyTree, valid: jax.Array) -> Moments:
    """Over the valid steps; `values` has leaves [*valid.shape, ...]."""
    count = valid.sum(dtype=float)

    def mean(leaf):
        mask = valid.reshape(valid.shape + (1,) * (leaf.ndim - valid.ndim))
        return jnp.where(mask, leaf, 0).sum(range(valid.ndim)) / jnp.maximum(count, 1)

    means = jax.tree.map(mean, values)
    return Moments(count, means, jax.tree.map(lambda leaf, center: mean((leaf - center) ** 2), values, means))


def _gains(trajectory: Trajectory, discount: float) -> jax.Array:
    """g_t = Σ_{k≤t} γ^{t−k} r_k along each episode, [..., T]."""

    def step(gain, reward):
        gain = discount * gain + reward
        return gain, gain

    rewards = jnp.moveaxis(trajectory.reward, -1, 0)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(rewards[0]), rewards)[1], 0, -1)


def _normal_observation(statistics: Statistics, observation: PyTree) -> PyTree:
    seen = statistics.observation
    if seen is None:
        return observation
    return jax.tree.map(lambda x, mean, scale: (x - mean) / scale, observation, seen.mean, seen.scale)


def _raw_observation(statistics: Statistics, observation: PyTree) -> PyTree:
    seen = statistics.observation
    if seen is None:
        return observation
    return jax.tree.map(lambda y, mean, scale: mean + scale * y, observation, seen.mean, seen.scale)


def _unit(statistics: Statistics) -> jax.Array:
    """The divisor of the rewards."""
    return jnp.ones((), float) if statistics.gain is None else statistics.gain.scale


def _normal_env(env: TaskEnv, statistics: Statistics, discount: float) -> TaskEnv:
    """The environment in normalised units; its `measure` also gives the data's moments, in raw units."""

    def view(state):
        observation = _normal_observation(statistics, state.observation)
        return View(observation, state.reward / _unit(statistics), state.terminated, state.truncated, state)

    def measure(trajectory):
        seen, gain = statistics.observation, statistics.gain
        if seen is not None:
            seen = _moments(trajectory.observation, trajectory.valid).shifted(seen.mean, seen.scale)
        if gain is not None:
            gain = _moments(_gains(trajectory, discount), trajectory.valid).shifted(0.0, gain.scale)
        own = {} if env.measure is None else env.measure(_raw(statistics, trajectory))
        return own | {_MOMENTS: Statistics(seen, gain)}

    scene = env.scene
    return dataclasses.replace(
        env,
        reset=lambda key, task: view(env.reset(key, task)),
        step=lambda task, state, action: view(env.step(task, state.inner, action)),
        observation_shape=without_dtypes(env.observation_shape),  # they are real numbers then
        measure=measure,
        scene=None if scene is None else lambda task, state: scene(task, state.inner),
    )


def _raw(statistics: Statistics, trajectory: Trajectory) -> Trajectory:
    """A trajectory of the normalised environment in raw units."""
    return dataclasses.replace(
        trajectory,
        observation=_raw_observation(statistics, trajectory.observation),
        next_observation=_raw_observation(statistics, trajectory.next_observation),
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
    discount: float = 0.99,
) -> MetaAlgorithm:
    """The algorithm that `build` makes, with running normalisation: s ← (s − mean) / std, r ← r / std(g).

    Mean and standard deviation of each component of the observations are over all valid steps of training, and g_t =
    γ g_{t−1} + r_t is the discounted reward of an episode so far. In the first meta-iteration both are left as they
    are. Components that never change are only centred. Nothing is clipped.

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
        with while_tracing():
            return build(_normal_env(env, statistics, discount))

    def unseen() -> Statistics:
        start = jax.eval_shape(lambda key: env.reset(key, env.sample_task(key)), jax.random.key(0))
        gain = _nothing_seen(jax.ShapeDtypeStruct((), float)) if rewards else None
        return Statistics(_nothing_seen(start.observation) if observations else None, gain)

    def init(key):
        statistics = unseen()
        state = within(statistics).init(key)
        return dataclasses.replace(state, params=Normalized(state.params, statistics))

    def update(key, state):
        statistics = state.params.statistics
        after, metrics = within(statistics).update(key, dataclasses.replace(state, params=state.params.params))
        metrics = dict(metrics)
        of_data = metrics.pop(_MOMENTS)
        merged = jax.tree.map(
            lambda old, new: old.merged(new), statistics, of_data, is_leaf=lambda node: isinstance(node, Moments)
        )
        return dataclasses.replace(after, params=Normalized(after.params, merged)), _in_raw_units(metrics, statistics)

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
            trajectory=_raw(statistics, out.trajectory),
            by_mode=by_mode and dataclasses.replace(by_mode, returns=by_mode.returns * _unit(statistics)),
        )

    policy = None if plain.policy is None else _policy(plain.policy, unseen)
    online = None if plain.online is None else _online(plain.online, within)
    return entry_points(init, update, adapt, gradient, policy, online)


def _in_raw_units(metrics: Metrics, statistics: Statistics) -> Metrics:
    return {name: value * _unit(statistics) if name in ("return", "gain") else value for name, value in metrics.items()}


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
