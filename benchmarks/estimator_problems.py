"""Problems for `benchmarks/estimators.py`: two with exact gradients, two without."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import metarl_jax as mrl
from oracles import exact

ZERO, OTHERS, NETWORK = "zero", "leave_one_out", "value_network"
LEARNERS = (ZERO, OTHERS, NETWORK)
"""Baselines. Advantages enter the inner step, so each defines a different learner f and sampled update."""


class Problem(NamedTuple):
    """A problem and the sizes of its estimates. One inner step; only the stage after it counts."""

    name: str
    env: mrl.TaskEnv
    policy: mrl.Policy
    tasks: int
    episodes: int
    inner_lr: float
    keys: int = 1
    """estimates per estimator"""
    chunk: int = 1
    """estimates computed at a time"""
    truth: exact.Problem | None = None
    """the MDP for exact gradients; None: the references are large batches"""
    large: tuple[int, int] = (0, 0)
    """episodes per stage and keys of the expected update's reference"""
    others: Any = OTHERS
    """the leave-one-out baseline"""
    hidden: tuple[int, ...] = (32,)
    evolution: bool = True
    """whether to include ES-MAML"""

    def critic(self) -> "mrl.inner.Critic":
        """TMAML's value network, adapted by the inner step with the paper's rate of 0.02."""
        sizes = self.env.observation_size, self.env.horizon, self.hidden
        return mrl.inner.value_network(*sizes, inner_weight=0.02 / self.inner_lr, residual=False)

    def options(self, learner: str) -> dict[str, Any]:
        """Common options of the algorithms, with advantages in units of return: A_t = Σ_{k≥t} r_k − V(s_t)."""
        baseline = {ZERO: ZERO, OTHERS: self.others, NETWORK: self.critic()}[learner]
        sizes = {"tasks": self.tasks, "episodes": self.episodes, "inner_lr": self.inner_lr, "policy": self.policy}
        return sizes | {"baseline": baseline, "discount": 1.0, "lambda_": 1.0, "normalized": False}

    def parts(self, learner: str, **own) -> "mrl.outer.Parts":
        return mrl.algorithms.build_parts(self.env, objective=mrl.outer.ratio(), **self.options(learner), **own)


def finite(name: str, problem: exact.Problem, **settings) -> Problem:
    """A problem with the given MDP as its only task, and logits [X, A] as θ."""
    states, actions = problem.reward.shape
    sizes = {"horizon": problem.horizon, "states": states, "actions": actions, "reward_std": 0.0}
    task = mrl.envs.MDPTask(jnp.asarray(problem.transition, float), jnp.asarray(problem.reward, float))
    env = dataclasses.replace(mrl.envs.make("tabular-mdp", **sizes), sample_task=lambda key: task)
    policy = mrl.Policy(
        init=lambda key: jnp.asarray(problem.logits, float),
        apply=lambda logits, observation: mrl.policies.Categorical(observation @ logits),
    )
    return Problem(name, env, policy, truth=problem, **settings)


def simulated(
    name: str, env: mrl.TaskEnv, hidden: tuple[int, ...] = (32,), init_std: float = 1.0, **settings
) -> Problem:
    return Problem(name, env, mrl.policies.mlp(env, hidden, init_std=init_std), hidden=hidden, **settings)


def make(name: str, quick: bool) -> Problem:
    """A problem at full size, or at the small size of --quick.

    Raises:
        ValueError: there is no such problem.
    """

    def size(full, small):
        return small if quick else full

    if name in ("bandit", "MDP"):
        truth, rate = (exact.BANDIT, 1.5) if name == "bandit" else (exact.MDP, 1.0)
        return finite(name, truth, inner_lr=rate, tasks=20, episodes=3, keys=size(8000, 500), chunk=500)
    if name == "point-nav":
        # Goals in one quadrant: with goals in all directions, the tasks' gradients at a random θ cancel.
        env = mrl.envs.make(name, horizon=20, action_scale=10.0, goal_range=(0.0, 0.5))
        sizes = {"tasks": 10, "episodes": 10, "keys": size(2000, 20), "chunk": 20, "large": size((100, 200), (20, 20))}
        return simulated(name, env, init_std=0.5, inner_lr=0.05, **sizes)
    if name == "cheetah-vel":
        env = mrl.envs.make("cheetah-vel@promp2019", horizon=10)
        sizes: dict[str, Any] = {"tasks": 5, "episodes": size(20, 4), "keys": size(240, 8), "chunk": size(40, 4)}
        sizes |= {"large": size((200, 40), (10, 4)), "inner_lr": 0.5}
        others = mrl.inner.leave_one_out(mrl.inner.linear_time())  # 38 features would explain 190 steps by chance
        return simulated(name, env, others=others, evolution=False, **sizes)
    raise ValueError(f"unknown problem {name!r}; there are bandit, MDP, point-nav and cheetah-vel")


def sampled_gradient(
    problem: exact.Problem, rate: float, episodes: int, advantage: Callable[[mrl.Trajectory], jax.Array]
) -> np.ndarray:
    """∇J(θ) [d] of the sampled update, by enumeration of D: `exact.sampled_gradient` for any advantage of D."""
    every = exact.all_episodes(problem)
    counts, orderings = exact.data_sets(len(every.chance), episodes)
    members = np.stack([np.repeat(np.arange(len(row)), row) for row in counts])
    with jax.enable_x64():
        states, actions, rewards = jnp.asarray(every.states), jnp.asarray(every.actions), jnp.asarray(every.rewards)
        log_chance, seen = jnp.log(every.chance), jax.nn.one_hot(states, len(problem.reward), dtype=float)

        def value(theta, chosen):
            taken = jnp.asarray(every.taken)[chosen]

            def log_prob(phi):
                return jnp.where(taken, jax.nn.log_softmax(phi)[states[chosen], actions[chosen]], 0)

            trajectory = mrl.Trajectory(
                observation=seen[chosen],
                next_observation=jnp.roll(seen[chosen], -1, axis=1),  # nothing is read of the last one
                action=actions[chosen],
                log_prob=log_prob(theta),
                reward=rewards[chosen],
                discount=jnp.ones(taken.shape),
                truncated=jnp.zeros(taken.shape, bool),
                valid=taken,
            )
            weights = jax.lax.stop_gradient(advantage(trajectory))
            phi = theta + rate * jax.grad(lambda phi: (log_prob(phi) * weights).mean())(theta)
            odds = jnp.exp(log_prob(theta).sum() + log_chance[chosen].sum())
            return odds * exact._mean_return(problem, phi)

        mean = jax.jit(jax.grad(lambda theta: orderings @ jax.vmap(value, (None, 0))(theta, members)))
        return np.asarray(mean(jnp.asarray(problem.logits))).ravel()
