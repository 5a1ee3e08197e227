"""Meta-learning of update rules for `benchmarks/lpg.py`, from one or several families of tasks."""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import metarl_jax as mrl
from metarl_jax.base import InnerOptimizer, MetaAlgorithm, TaskEnv
from metarl_jax.inner.actor_critic import ActorCriticParams

LEARNED_FROM: dict[str, tuple[dict[str, Any], float]] = {
    "tabular-mdp": ({"name": "tabular-mdp"}, 2.0),
    "grid-nav, 4 × 4, 12 steps": ({"name": "grid-nav", "size": 4, "horizon": 12}, 1.0),
    "point-robot": ({"name": "point-robot"}, 0.5),
}
"""Families for meta-learning with the agents' step sizes α, which are about the best ones of actor-critic."""
BLOCK = 25
"""meta-updates between two points of the curve; numbers of meta-updates are multiples of it"""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a rule and its agents."""

    tasks: int = 32
    """parallel agents per family"""
    episodes: int = 16
    """environments per agent"""
    lifetime: int = 150
    """updates per lifetime in meta-learning"""
    hidden: tuple[int, ...] = (32,)
    """layers of policies, predictions and values"""
    min_std: float = 0.3
    """minimum standard deviation of continuous actions"""
    rule_size: int = 32
    """LSTM units of the rule"""
    prediction_size: int = 8
    """categories of the predictions"""
    outer_lr: float = 1e-3
    """Adam's rate for the rule"""
    max_agent_gradient_norm: float = 1.0
    """maximum norm of an agent's gradient; those of 32 agents on point-robot were between 0.04 and 8e7"""
    seed: int = 0
    """random seed"""


class Rule(NamedTuple):
    """θ after a number of meta-updates."""

    iterations: int
    theta: Any


def learned(env: TaskEnv, sizes: Sizes, updates: int, rate: jax.Array | float) -> MetaAlgorithm:
    return mrl.algorithms.make(
        "lpg",
        env,
        tasks=sizes.tasks,
        episodes=sizes.episodes,
        adaptation_steps=updates,
        lifetime=sizes.lifetime,
        policy=agents(env, sizes),
        rule_size=sizes.rule_size,
        prediction_size=sizes.prediction_size,
        inner_optimizer=lambda _: descent(rate),
        outer_lr=sizes.outer_lr,
        max_agent_gradient_norm=sizes.max_agent_gradient_norm,
    )


def agents(env: TaskEnv, sizes: Sizes) -> dict[str, Any]:
    """The policy's options; a nearly deterministic continuous policy would make long chains of updates chaotic."""
    return {"hidden": sizes.hidden} | ({} if env.discrete else {"min_std": sizes.min_std})


def descent(rate: jax.Array | float, critic: jax.Array | float = 1.0) -> InnerOptimizer:
    """φ ← φ − α ∇φ with a traced α: one program for all step sizes. A critic's rate is multiplied by α."""

    def update(gradient, state, params, learned=()):
        rates = rate
        if isinstance(params, ActorCriticParams):
            rates = ActorCriticParams(policy=rate, critic=rate * critic)

        def move(rate, params, gradient):
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient)

        return jax.tree.map(move, rates, params, gradient), state

    return InnerOptimizer(lambda params: (), update)


def learn_rules(families: Sequence[str], iterations: int, snapshots: Sequence[int], sizes: Sizes, folder: Path) -> None:
    """Meta-learns from all families together, in a new folder.

    Writes θ after each of `snapshots` meta-updates and after the last, and the learning curve as curve.json.

    A meta-update is one step of θ per family. The curve is the mean return per family of agents of all ages.
    """
    for number in (iterations, *snapshots):
        if number % BLOCK:
            raise SystemExit(f"{number} meta-updates: iterations and snapshots must be multiples of {BLOCK}")
    for rule in folder.glob("rule-*.npz"):
        rule.unlink()
    members = {}
    for family in families:
        options, rate = LEARNED_FROM[family]
        members[family] = learned(mrl.envs.make(split="train", **options), sizes, 5, rate)
    algorithm, key = mrl.algorithms.mixture(members), jax.random.key(sizes.seed)
    curve: dict[str, Any] = {"families": list(families), "iteration": [], "seconds": []}
    curve |= {"sizes": dataclasses.asdict(sizes), "return": {name: [] for name in members}}
    start, recent = time.perf_counter(), {name: [] for name in members}
    for chunk in mrl.training.train(algorithm, key, iterations, chunk=BLOCK, seconds=1e6, on_nonfinite="rollback"):
        for name, values in recent.items():
            values.extend(chunk.metrics[f"{name}/return"][:, 1:].mean(1))
        if chunk.done % BLOCK:
            continue
        now = {name: float(np.nanmean(values[-BLOCK:])) for name, values in recent.items()}
        for name, value in now.items():
            curve["return"][name].append(round(value, 3))
        curve["iteration"].append(chunk.done)
        curve["seconds"].append(round(time.perf_counter() - start, 1))
        returns = ", ".join(f"{name} {value:.2f}" for name, value in now.items())
        print(f"  meta-update {chunk.done:5d}, {curve['seconds'][-1]:5.0f} s: {returns}", flush=True)
        if chunk.done in (*snapshots, iterations):
            save_rule(folder / f"rule-{chunk.done}.npz", jax.device_get(chunk.state.params))
        (folder / "curve.json").write_text(json.dumps(curve) + "\n", encoding="utf-8")


def save_rule(path: Path, theta: Any) -> None:
    np.savez_compressed(path, **{jax.tree_util.keystr(key): leaf for key, leaf in jax.tree.leaves_with_path(theta)})


def load_rules(folder: Path, like: Any) -> list[Rule]:
    """Reads the results of `learn_rules`, in the order of learning; `like` is a tree with the structure of θ."""
    rules = []
    for path in folder.glob("rule-*.npz"):
        with np.load(path) as stored:
            theta = jax.tree.map_with_path(lambda key, leaf: jnp.asarray(stored[jax.tree_util.keystr(key)]), like)
        rules.append(Rule(int(path.stem.partition("-")[2]), theta))
    return sorted(rules, key=lambda rule: rule.iterations)
