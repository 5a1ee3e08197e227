"""Problems whose answers are known, made of the public names only."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import struct

import metarl_jax as mrl

VARIANTS = ("anil", "cavia", "dice", "fomaml", "loaded-dice", "meta-curvature", "pretrain", "rl2-hyper", "tmaml")
"""algorithms that are one of the others with other inner parts"""
OF_THEIR_OWN = tuple(name for name in mrl.algorithms.names() if name not in VARIANTS)
SLOW_TO_COMPILE = ("lpg", "self-tuning")
"""windows of long lives: a minute for each program that differentiates them"""
UPDATES = tuple(name for name in OF_THEIR_OWN if name not in SLOW_TO_COMPILE)


def every_algorithm(by_default):
    """Rows of all algorithms: some by default, the other updates thorough, the rest slow."""
    rank = dict.fromkeys(UPDATES, pytest.mark.thorough) | dict.fromkeys(by_default, ())
    return [pytest.param(name, marks=rank.get(name, pytest.mark.slow)) for name in mrl.algorithms.names()]


NO_STEP_FROM_THETA = ("lpg", "rl2", "rl2-hyper", "self-tuning")
"""algorithms whose φ is not θ and a few policy-gradient steps from it"""

BANDIT_REWARDS = (1.0, 0.2, -0.5)
BANDIT_LOGITS = (0.3, -0.2, 0.1)


@struct.dataclass
class State:
    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


@struct.dataclass
class CounterState(State):
    time: jax.Array


def bandit():
    """Three arms with fixed rewards; one pull is an episode."""
    return mrl.TaskEnv(
        name="three-armed-bandit",
        sample_task=lambda key: jnp.array(BANDIT_REWARDS),
        reset=lambda key, task: State(jnp.zeros(1), 0.0, False, False),
        step=lambda task, state, action: State(state.observation, task[action], True, False),
        observation_size=1,
        action_size=3,
        discrete=True,
        horizon=1,
    )


def bandit_policy():
    """θ are the logits themselves."""
    return mrl.Policy(
        init=lambda key: jnp.array(BANDIT_LOGITS), apply=lambda params, _: mrl.policies.Categorical(params)
    )


def gaussian_bandit(offset=0.0):
    """Reward offset − (a − g)² with g = 2; one pull is an episode."""
    return mrl.TaskEnv(
        name="fixed-gaussian-bandit",
        sample_task=lambda key: jnp.array(2.0),
        reset=lambda key, task: State(jnp.zeros(1), 0.0, False, False),
        step=lambda task, state, action: State(state.observation, offset - ((action - task) ** 2).sum(), True, False),
        observation_size=1,
        action_size=1,
        horizon=1,
    )


def gaussian_policy(mean=0.5):
    """θ is the mean; σ = 1."""
    return mrl.Policy(
        init=lambda key: jnp.array([mean]),
        apply=lambda params, _: mrl.policies.DiagonalGaussian(params, jnp.zeros(1)),
    )


def walk(horizon=6):
    """A point on a line: start N(0, 1), s ← s + a, reward −(s − g)², terminal at |s| > 2.5, truncated at s < −2.

    The task is g ~ N(0, 1); early ends of both kinds occur in most batches.
    """

    def step(task, state, action):
        position = state.observation + action
        ended = jnp.abs(position).sum() > 2.5
        return CounterState(position, -((position - task) ** 2).sum(), ended, position.sum() < -2.0, state.time + 1)

    return mrl.TaskEnv(
        name="walk",
        sample_task=lambda key: jax.random.normal(key, (1,)),
        reset=lambda key, task: CounterState(jax.random.normal(key, (1,)), 0.0, False, False, 0),
        step=step,
        observation_size=1,
        action_size=1,
        horizon=horizon,
    )


@struct.dataclass
class DotState(State):
    place: jax.Array
    velocity: jax.Array


SEEN = {
    "vector": {"observation_size": 4},
    "vectors": {"observation_shape": {"place": (2,), "velocity": (2,)}},
    "picture": {"observation_shape": (8, 8, 2)},
    "dictionary": {"observation_shape": {"picture": (8, 8, 1), "velocity": (2,)}},
}
"""ways in which `dot` is observed"""


def picture_of(place):
    """A blob at a place of [−1, 1]², [8, 8] uint8."""
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(-1, 1, 8)] * 2, indexing="ij"), -1)
    return (255 * jnp.exp(-4 * ((grid - place) ** 2).sum(-1))).astype(jnp.uint8)


def dot(kind, horizon=5):
    """A dot in the square [−1, 1]², to be pushed to a hidden goal, seen as `SEEN` says; "vectors" is "vector" split."""

    def show(place, velocity):
        if kind == "vector":
            return jnp.concatenate([place, velocity])
        if kind == "vectors":
            return {"velocity": velocity, "place": place}
        picture = picture_of(place)[..., None]
        if kind == "picture":
            return jnp.concatenate([picture, picture_of(place - velocity)[..., None]], -1)
        return {"picture": picture, "velocity": velocity}

    def state(place, velocity, reward):
        return DotState(show(place, velocity), reward, False, False, place, velocity)

    def reset(key, task):
        return state(jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5), jnp.zeros(2), 0.0)

    def step(task, before, action):
        velocity = 0.3 * jnp.clip(action, -1, 1)
        place = jnp.clip(before.place + velocity, -1, 1)
        return state(place, velocity, -jnp.abs(place - task).sum())

    def sample_task(key):
        return jax.random.uniform(key, (2,), minval=-1.0)

    return mrl.TaskEnv(
        name=f"dot as a {kind}",
        sample_task=sample_task,
        reset=reset,
        step=step,
        action_size=2,
        horizon=horizon,
        **SEEN[kind],
    )


def half_bytes():
    """A picture of bytes at reset, which a step makes one of 32-bit integers."""
    env = dot("picture")

    def step(task, state, action):
        after = env.step(task, state, action)
        return after.replace(observation=after.observation.astype(jnp.int32))

    return dataclasses.replace(env, step=step)


def unscaled(estimator):
    """An advantage estimator as the assembly runs it: of φ and a trajectory, with the number that it divided by."""
    return lambda params, trajectory: (estimator(trajectory), jnp.ones(()))


def small_policy(env, **options):
    return mrl.policies.mlp(env, hidden=(8,), **options)
