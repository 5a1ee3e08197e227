"""Bias, noise and price of every meta-gradient estimator, against exact gradients and large-batch references.

python benchmarks/estimators.py
python benchmarks/estimators.py --output benchmarks/results/estimators.json
python benchmarks/estimators.py --quick --problems bandit

All surrogates have the same first derivative, so the data of one trial serve every estimator with the same baseline:
they are collected once, and each estimator differentiates its own loss on them. `docs/estimators.md` reads the figures.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metarl_jax as mrl
from benchmarks import exact
from metarl_jax.compose import build_parts

ZERO, OTHERS, NETWORK = "zero", "leave_one_out", "value_network"
LEARNERS = (ZERO, OTHERS, NETWORK)
"""Baselines. Advantages enter the inner step, so each makes a learner f, and a sampled update, of its own."""

ESTIMATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "first order": (OTHERS, {"inner_optimizer": lambda rate: mrl.inner.first_order(mrl.inner.sgd(rate))}),
    "plain": (OTHERS, {"surrogate": "score_function"}),
    "LVC": (OTHERS, {"surrogate": "likelihood_ratio"}),
    "DiCE, no baseline": (ZERO, {"surrogate": "dice"}),
    "DiCE": (OTHERS, {"surrogate": "dice"}),
    "Loaded DiCE 0.9": (OTHERS, {"surrogate": lambda *inputs: mrl.inner.loaded_dice(0.9)(*inputs)}),
    "TMAML": (NETWORK, {"surrogate": "dice"}),
    "plain + credit": (OTHERS, {"surrogate": "score_function", "credit": True}),
    "LVC + credit": (OTHERS, {"surrogate": "likelihood_ratio", "credit": True}),
}
"""Name → baseline and options of `build_parts`. ES-MAML, which has no loss to differentiate, stands beside them."""
EVOLUTION, UNBIASED = "ES-MAML", "plain + credit"
OBJECTIVES = ("sampled update", "expected update")
STAGES = 2


@dataclasses.dataclass(frozen=True)
class Arguments:
    problems: tuple[str, ...] = ("bandit", "MDP", "point-nav", "cheetah-vel")
    """which problems"""
    quick: bool = False
    """a rehearsal of about a minute, too noisy to read"""
    repeats: int = 9
    """measurements of each estimator's time"""
    seed: int = 0
    """of θ and of all data"""
    output: Path | None = None
    """where to write the figures as JSON; the picture goes beside it"""


class Problem(NamedTuple):
    """What is estimated, and how often. One inner step, and only what follows it counts."""

    name: str
    env: mrl.TaskEnv
    policy: mrl.Policy
    tasks: int
    episodes: int
    inner_lr: float
    keys: int
    """estimates by each estimator"""
    chunk: int
    """of them at a time"""
    truth: exact.Problem | None = None
    """where the exact gradients come from; None: from large batches"""
    large: tuple[int, int] = (0, 0)
    """episodes per stage and keys of the large batches"""
    others: Any = OTHERS
    """the leave-one-out baseline"""
    evolution: bool = True
    """whether ES-MAML is estimated too"""

    @property
    def estimate_episodes(self) -> int:
        """Episodes that one estimate consumes."""
        return STAGES * self.tasks * self.episodes

    def critic(self) -> mrl.inner.Critic:
        """TMAML's value network, which the inner step adapts at the paper's rate of 0.02."""
        sizes = self.env.observation_size, self.env.horizon, (32,)
        return mrl.inner.value_network(*sizes, inner_weight=0.02 / self.inner_lr)

    def parts(self, learner: str, **options) -> mrl.outer.Parts:
        """The algorithm with one of `LEARNERS`, in units of return: A_t = Σ_{k≥t} r_k − V(s_t)."""
        advantage = {"advantage": "gae", "discount": 1.0, "lambda_": 1.0, "normalized": False}
        return build_parts(
            self.env,
            objective=mrl.outer.ratio(),
            policy=self.policy,
            tasks=self.tasks,
            episodes=self.episodes,
            inner_lr=self.inner_lr,
            baseline={ZERO: ZERO, OTHERS: self.others, NETWORK: self.critic()}[learner],
            **advantage,
            **options,
        )


def finite(name: str, problem: exact.Problem, **settings) -> Problem:
    """A problem whose only task is the given MDP, and whose θ are the logits [X, A]."""
    states, actions = problem.reward.shape
    sizes = {"horizon": problem.horizon, "states": states, "actions": actions, "reward_std": 0.0}
    task = mrl.envs.MDPTask(jnp.asarray(problem.transition, float), jnp.asarray(problem.reward, float))
    env = dataclasses.replace(mrl.envs.make("tabular-mdp", **sizes), sample_task=lambda key: task)
    policy = mrl.Policy(
        init=lambda key: jnp.asarray(problem.logits, float),
        apply=lambda logits, observation: mrl.policies.Categorical(observation @ logits),
    )
    return Problem(name, env, policy, truth=problem, **settings)


def problems(quick: bool) -> dict[str, Callable[[], Problem]]:
    def simulated(name: str, env_options: dict[str, Any], policy_options: dict[str, Any], **settings) -> Problem:
        env = mrl.envs.make(name, **env_options)
        return Problem(name, env, mrl.policies.mlp(env, hidden=(32,), **policy_options), **settings)

    def size(full, small):
        return small if quick else full

    enumerable = {"tasks": 20, "episodes": 3, "keys": size(8000, 500), "chunk": 500}
    return {
        "bandit": lambda: finite("bandit", exact.BANDIT, inner_lr=1.5, **enumerable),
        "MDP": lambda: finite("MDP", exact.MDP, inner_lr=1.0, **enumerable),
        "point-nav": lambda: simulated(
            "point-nav",
            {"horizon": 50},
            {},
            tasks=10,
            episodes=10,
            inner_lr=0.1,
            keys=size(1000, 20),
            chunk=20,
            large=size((100, 200), (20, 4)),
        ),
        "cheetah-vel": lambda: simulated(
            "cheetah-vel",
            {"horizon": size(50, 10)},
            {},
            tasks=size(5, 2),
            episodes=size(10, 2),
            inner_lr=0.1,
            keys=size(100, 4),
            chunk=size(10, 4),
            large=size((100, 20), (4, 4)),
            evolution=False,
        ),
    }


# Estimates.


def collector(problem: Problem) -> Callable[..., Any]:
    """``(number of the learner, keys, θ) → data`` of every key: physics is compiled once for all learners.

    θ holds a critic throughout. Learners with another baseline ignore it: their policy moves as it would without.
    """
    parts = problem.parts(NETWORK)
    choices = [problem.parts(learner).advantage for learner in LEARNERS]

    def collect(which, key, theta):
        chosen = parts._replace(advantage=lambda phi, trajectory: jax.lax.switch(which, choices, phi, trajectory))
        return mrl.outer.collect_tasks(key, chosen, theta)

    return jax.jit(jax.vmap(collect, (None, 0, None)))


def differentiator(problem: Problem, estimators: dict[str, tuple[str, dict[str, Any]]]) -> Callable[..., Any]:
    """``(θ, data) → {name: ascent direction [d]}`` of the policy's parameters, from the data of one key."""

    def gradients(theta, data):
        found = {}
        for name, (learner, options) in estimators.items():
            own = (theta, data) if learner == NETWORK else (theta["policy"], without_critic(data))
            loss = mrl.outer.meta_objective(problem.parts(learner, **options)).loss
            descent = jax.grad(lambda t, d, loss=loss: loss(t, d)[0])(*own)
            leaves = jax.tree.leaves(descent["policy"] if learner == NETWORK else descent)
            found[name] = -jnp.concatenate([leaf.ravel() for leaf in leaves])
        return found

    return gradients


def without_critic(data):
    return data.replace(params=data.params["policy"])


def start(problem: Problem, collect: Callable[..., Any], key: jax.Array, steps: int = 500) -> Any:
    """A random θ, whose critic has been fitted to episodes that no estimate sees."""
    init_key, data_key = jax.random.split(key)
    theta, critic = problem.parts(NETWORK).adapter.init_meta(init_key), problem.critic()
    loss, optimizer = critic.loss, optax.adam(3e-3)
    assert loss is not None
    data = collect(0, jax.random.split(data_key, problem.chunk), theta)
    episodes = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[4:])[:1000], data.trajectory)

    def step(carry, _):
        w, state = carry
        error, descent = jax.value_and_grad(loss)(w, episodes, 1.0)
        change, state = optimizer.update(descent, state)
        return (optax.apply_updates(w, change), state), error

    fit = jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), None, steps))
    (w, _), errors = fit(theta["critic"])
    return theta | {"critic": w}


def estimate(problem: Problem, collect, keys: jax.Array, theta: Any, estimators) -> dict[str, np.ndarray]:
    """Every estimator's gradients [K, d], one a key. All have the same baseline."""
    (which,) = {LEARNERS.index(learner) for learner, _ in estimators.values()}
    gradients = jax.jit(jax.vmap(differentiator(problem, estimators), (None, 0)))
    chunks = []
    for some in keys.reshape(-1, problem.chunk):
        chunks.append(jax.device_get(gradients(theta, collect(which, some, theta))))
    return {name: np.concatenate([chunk[name] for chunk in chunks]).astype(float) for name in estimators}
