"""The assembly of lifelong algorithms: the state carries a population of agents between meta-updates."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import checks, outer
from metarl_jax.base import MetaAlgorithm, MetaObjective, OuterOptimizer
from metarl_jax.curriculum import task_of
from metarl_jax.entry import entry_points
from metarl_jax.outer import lives
from metarl_jax.soundness import all_finite
from metarl_jax.types import Adaptation, Key, MetaState, Metrics, Path, PyTree, strongly_typed, tree_where

Penalty = Callable[[PyTree, Path], tuple[jax.Array, Metrics]]
"""``(θ, path) → (loss, metrics)`` of one life's window: what the outer loss has in addition to the objective"""

ENDLESS = 2**31 - 1


@struct.dataclass
class Living:
    """State that a meta-update passes to the next, besides θ."""

    opt_state: PyTree
    population: lives.Life
    """B agents, leaves [B, ...]"""


def assemble_lives(
    parts: outer.Parts,
    outer_optimizer: OuterOptimizer,
    *,
    lifetime: int | None = None,
    penalty: Penalty | None = None,
    max_agent_gradient_norm: float | None = None,
) -> MetaAlgorithm:
    """A lifelong algorithm: each meta-update is a window of L updates of B agents.

    The outer loss of one agent is the parts' objective along φ_0 … φ_L of its window, plus the penalty. An agent that
    reaches its final age is replaced by a new one, with a new task, a new φ and age 0. An agent whose updates give
    numbers that are not finite is replaced too, and nothing is learned from that window. The first generation's final
    ages are spread evenly over a lifetime, so that the population has all ages.

    Args:
        parts: parts of the trial, which is the window, and of the objective; the adapter has `born`.
        outer_optimizer: updates θ.
        lifetime: updates in a life; None: endless.
        penalty: a further term of the outer loss.
        max_agent_gradient_norm: limit of each agent's gradient, before the mean over agents; it also applies to
            `gradient`, see `metarl_jax.outer.limited`. A derivative through many updates can be very long. None: no
            limit.

    Raises:
        ValueError: the lifetime is not a positive integer, the limit not a positive number, or an option means nothing
            in pieces of episodes.
    """
    trial = parts.trial
    if parts.discount != 1:
        raise ValueError(
            "discount_states is True, and a life's stages are pieces of episodes, which do not know their time t; "
            "leave discount_states out"
        )
    if lifetime is not None:
        checks.integer("lifetime", lifetime)
    if trial.horizon > parts.env.horizon:
        raise ValueError(
            f"horizon is {trial.horizon}; here it is the steps of a piece of an episode, and an episode of "
            f"{parts.env.name!r} has {parts.env.horizon}; choose at most as many, or make its episodes longer"
        )
    parts = parts._replace(adapter=lives.skipping_void(parts.adapter))
    objective = _objective(parts, penalty, max_agent_gradient_norm)
    population = _Population(parts, outer_optimizer, objective, lifetime)
    functions = population.init, population.update, population.adapt, population.gradient
    return entry_points(*functions, parts.policy, outer.online_life(parts))


def _objective(parts: outer.Parts, penalty: Penalty | None, limit: float | None) -> MetaObjective:
    """The mean over agents of the loss of their windows."""

    def of_life(theta: PyTree, window: lives.Window):
        path = outer.replay(parts, theta, window.stages, window.start)
        loss, metrics = parts.objective(parts.policy, path)
        if penalty is not None:
            more, further = penalty(theta, path)
            loss, metrics = loss + more, metrics | further
        return loss, metrics

    loss = of_life if limit is None else outer.limited(of_life, checks.positive("max_agent_gradient_norm", limit))
    return parts.memory.mean_over_tasks(loss)


@dataclasses.dataclass(frozen=True)
class _Population:
    """The functions of a `MetaAlgorithm` whose agents live on from one meta-iteration to the next."""

    parts: outer.Parts
    optimizer: OuterOptimizer
    objective: MetaObjective
    lifetime: int | None

    @property
    def end(self) -> int:
        """The age at which an agent is renewed."""
        return ENDLESS if self.lifetime is None else self.lifetime

    def init(self, key: Key) -> MetaState:
        theta_key, life_key = jax.random.split(key)
        theta = strongly_typed(self.parts.adapter.init_meta(theta_key))
        living = Living(self.optimizer.init(theta), self._first_generation(life_key, theta))
        return MetaState(params=theta, opt_state=living, iteration=jnp.zeros((), jnp.int32))

    def update(self, key: Key, state: MetaState):
        before = state.opt_state
        agents, windows, metrics = self._advance(key, state.params, before.population)
        theta, opt_state, further = self.optimizer.update(self.objective, state.params, before.opt_state, windows)
        state = MetaState(params=theta, opt_state=Living(opt_state, agents), iteration=state.iteration + 1)
        return state, outer.joined(metrics, further)

    def gradient(self, key: Key, theta: PyTree):
        birth_key, window_key = jax.random.split(key)

        def next_windows(agents, key):
            agents, windows, metrics = self._advance(key, theta, agents)
            return agents, (windows, metrics)

        # The first update of a newborn learns nothing, so a window of one update needs a second one to depend on θ.
        keys = jax.random.split(window_key)
        _, results = jax.lax.scan(next_windows, self._first_generation(birth_key, theta), keys)
        windows, metrics = jax.tree.map(lambda leaf: leaf[-1], results)
        ascent, further = self.objective.ascent(theta, windows)
        return ascent, outer.joined(metrics, further)

    def adapt(self, key: Key, theta: PyTree, task: PyTree, steps: int | None, deterministic=False) -> Adaptation:
        birth_key, life_key = jax.random.split(key)
        life = lives.born(birth_key, self.parts, theta, task, self.end)
        # The newborn's first update learns nothing, so stage 0 is before any adaptation.
        stages = outer.with_steps(self.parts, steps).trial.stages
        record = outer.summary_with_modes(self.parts.policy, deterministic)
        life, summaries = lives.live(life_key, self.parts, theta, life, stages, record)
        return Adaptation(self.parts.adapter.params(theta, life.fast), *summaries)

    def _newborn(self, key: Key, theta: PyTree, index: jax.Array, end) -> lives.Life:
        task, life_key = task_of(key, index, self.parts.env, self.parts.trial.tasks)
        return lives.born(life_key, self.parts, theta, task, end)

    def _first_generation(self, key: Key, theta: PyTree) -> lives.Life:
        """B newborns, leaves [B, ...], whose ends are spread evenly over a lifetime."""
        tasks = self.parts.trial.tasks
        numbers = jnp.arange(tasks)
        # Python's integers, since the product may exceed an int32.
        of_life = [ENDLESS if self.lifetime is None else (n + 1) * self.lifetime // tasks for n in range(tasks)]
        ends = jnp.array([max(end, 1) for end in of_life], jnp.int32)
        return self.parts.memory.over_tasks(lambda pair: self._newborn(key, theta, *pair), (numbers, ends))

    def _next_window(self, key: Key, theta: PyTree, index: jax.Array, life: lives.Life):
        """One agent after its next window: (agent, window, whether it was renewed, whether it diverged, steps)."""
        birth_key, window_key = jax.random.split(jax.random.fold_in(key, index))
        newborn, ended = self._newborn(birth_key, theta, index, self.end), life.age >= life.end
        life, window = lives.window(window_key, self.parts, theta, tree_where(ended, newborn, life))
        steps = window.stages.trajectory.valid[1:].sum()
        # A NaN here would contaminate the mean loss, and masking afterwards does not stop NaN gradients.
        diverged = ~all_finite((life.fast, window.stages))
        window = tree_where(diverged, lives.blank_window(window, newborn.fast), window)
        return tree_where(diverged, newborn, life), window, ended, diverged, steps

    def _advance(self, key: Key, theta: PyTree, agents: lives.Life):
        numbers = jnp.arange(self.parts.trial.tasks)
        agents, windows, ended, diverged, steps = self.parts.memory.over_tasks(
            lambda pair: self._next_window(key, theta, *pair), (numbers, agents)
        )
        metrics = outer.describe_window(windows.stages, self.parts.env.measure)
        metrics["environment_steps"] = steps.sum()  # those of diverged agents too
        own = {
            "age": agents.age.mean(dtype=float),
            "renewed": jnp.logical_or(ended, diverged).sum(),
            "diverged_lives": diverged.sum(),
        }
        return agents, windows, outer.joined(metrics, own)
