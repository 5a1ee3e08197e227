"""Finite problems with exact values (`oracles.exact`) as environments, and what the library estimates in them."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import metarl_jax as mrl
from oracles import exact


class Setting(NamedTuple):
    """Problems of one shape, each of them a task, equally likely, and the sizes of a trial."""

    problems: tuple[exact.Problem, ...]
    rates: tuple[float, ...]
    episodes: int
    draws: int = 128_000
    """trials that a mean is taken over, of cases that do not say otherwise"""

    @property
    def logits(self):
        return self.problems[0].logits

    def exact(self, function, *arguments):
        """The mean over tasks of an exact value."""
        values = [function(problem, self.logits, self.rates, self.episodes, *arguments) for problem in self.problems]
        return np.mean(values, 0)

    def with_problems(self, **changes):
        """The same with something changed in every problem."""
        return self._replace(problems=tuple(dataclasses.replace(problem, **changes) for problem in self.problems))


@struct.dataclass
class State:
    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    key: jax.Array


def environment(*problems):
    """Problems as tasks: the observation is the state, one-hot; chance is drawn from a key in the state."""
    states, actions = problems[0].reward.shape
    ends = [1 - problem.transition.sum(-1, keepdims=True) for problem in problems]
    odds = [np.concatenate([problem.transition, end], -1) for problem, end in zip(problems, ends, strict=True)]
    tasks = {"odds": np.stack(odds), "reward": np.stack([problem.reward for problem in problems])}

    def sample_task(key):
        chosen = jax.random.randint(key, (), 0, len(problems))
        return jax.tree.map(lambda leaf: jnp.array(leaf)[chosen], tasks)

    def reset(key, task):
        return State(jax.nn.one_hot(0, states), 0.0, False, False, key)

    def step(task, state, action):
        key, chance = jax.random.split(state.key)
        here = state.observation.argmax()
        following = jax.random.categorical(chance, jnp.log(jnp.maximum(task["odds"][here, action], 0)))
        return State(jax.nn.one_hot(following, states), task["reward"][here, action], following == states, False, key)

    return mrl.TaskEnv(
        name="enumerated",
        sample_task=sample_task,
        reset=reset,
        step=step,
        observation_size=states,
        action_size=actions,
        discrete=True,
        horizon=problems[0].horizon,
    )


def logits_policy(logits):
    return mrl.Policy(
        init=lambda key: jnp.array(logits),
        apply=lambda params, observation: mrl.policies.Categorical(observation @ params),
    )


def split_policy(logits, label):
    """Logits are the sum of two arrays, so that both have one gradient; one of them has the label and starts at 0."""
    return mrl.Policy(
        init=lambda key: {"body": jnp.array(logits), label: jnp.zeros(logits.shape)},
        apply=lambda params, observation: mrl.policies.Categorical(observation @ (params["body"] + params[label])),
        labels=lambda params: {name: name for name in params},
    )


def make(name, setting, **options):
    settings = {
        "episodes": setting.episodes,
        "adaptation_steps": len(setting.rates),
        "inner_lr": setting.rates or 0.1,
        "policy": logits_policy(setting.logits),
        "advantage": mrl.inner.returns(),
    }
    return mrl.algorithms.make(name, environment(*setting.problems), **(settings | options))


def mean_of_draws(algorithm, draws, leaf=lambda gradient: gradient):
    """Mean over so many keys of the public `gradient`, and its standard error, both [X, A]."""
    theta = algorithm.init(jax.random.key(0)).params
    over_keys = jax.vmap(lambda key: leaf(algorithm.gradient(key, theta)[0]))
    # Most of the time goes into compiling; a less optimised program is compiled and run in less time than a better one.
    compiled = jax.jit(over_keys, compiler_options={"xla_backend_optimization_level": 1})
    values = np.asarray(compiled(jax.random.split(jax.random.key(1), draws)), np.float64)
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(draws)


def mean_gradient(name, setting, tasks=64, draws=None, leaf=lambda gradient: gradient, **options):
    """`mean_of_draws` of the algorithm `name`, `draws` being trials."""
    return mean_of_draws(make(name, setting, tasks=tasks, **options), (draws or setting.draws) // tasks, leaf)


def assert_agrees(mean, error, expected, noise=0.02):
    relative = np.linalg.norm(error) / np.linalg.norm(expected)
    assert 0 < relative < noise, f"relative standard error {relative:.4f}"
    np.testing.assert_array_less(np.abs(mean - expected), 4 * error)


def assert_differs(mean, error, other):
    assert (np.abs(mean - other) > 10 * error).any()
