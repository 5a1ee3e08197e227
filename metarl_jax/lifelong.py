"""What algorithms of long lives share: a `MetaAlgorithm` whose state carries a population of agents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from metarl_jax import checks, outer
from metarl_jax.base import MetaAlgorithm, OuterOptimizer
from metarl_jax.entry import entry_points
from metarl_jax.outer import lives
from metarl_jax.types import Adaptation, Key, MetaState, Metrics, Path, PyTree, strongly_typed

Penalty = Callable[[PyTree, Path], tuple[jax.Array, Metrics]]
"""``(θ, path) → (loss, metrics)`` of one life's window: what the outer loss has beside the objective"""

ENDLESS = 2**31 - 1


@struct.dataclass
class Living:
    """What a meta-update passes to the next besides θ: the outer optimiser's state, and the population."""

    opt_state: PyTree
    population: lives.Life
    """B agents, leaves [B, ...]"""


def _where(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _finite(tree: PyTree) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def assemble_lives(
    parts: outer.Parts,
    outer_optimizer: OuterOptimizer,
    *,
    lifetime: int | None = None,
    penalty: Penalty | None = None,
    max_agent_gradient_norm: float | None = None,
) -> MetaAlgorithm:
    """The algorithm that lives on: every meta-update is a window of L updates of B agents, and moves θ by it.

    The outer loss of one agent is the parts' objective along φ_0 … φ_L of its window, plus the penalty. An agent whose
    age reaches its end is renewed: new task, new φ, age 0. So is one whose updates led to numbers that are not finite,
    and nothing is learned from that window. The first generation's ends are spread evenly over a lifetime, so that a
    population has all ages.

    Args:
        parts: of the trial, which is the window, and the objective; the adapter has `born`.
        outer_optimizer: how θ moves.
        lifetime: updates of a life; None means that it never ends.
        penalty: what the outer loss has beside the objective.
        max_agent_gradient_norm: limits the gradient of each agent before their mean, that of `gradient` too, see
            `metarl_jax.outer.limited`; a derivative through a chain of updates can be very long. None: no limit.

    Raises:
        ValueError: the lifetime is not a positive integer, the limit not a positive number, or an option means nothing
            in pieces of episodes.
    """
    parts = parts._replace(adapter=lives.skipping_void(parts.adapter))
    trial, over_tasks = parts.trial, parts.memory.over_tasks
    if parts.discount != 1:
        raise ValueError(
            "discount_states is True, and a life's stages are pieces of episodes, which do not know their time t; "
            "leave discount_states out"
        )
    whole = ENDLESS if lifetime is None else checks.integer("lifetime", lifetime)
    if trial.horizon > parts.env.horizon:
        raise ValueError(
            f"horizon is {trial.horizon}; here it is the steps of a piece of an episode, and an episode of "
            f"{parts.env.name!r} has {parts.env.horizon}; choose at most as many, or make its episodes longer"
        )

    def of_life(theta: PyTree, seen: lives.Window):
        path = outer.replay(parts, theta, seen.stages, seen.start)
        loss, metrics = parts.objective(parts.policy, path)
        if penalty is not None:
            more, told = penalty(theta, path)
            loss, metrics = loss + more, metrics | told
        return loss, metrics

    limit = max_agent_gradient_norm
    limited = of_life if limit is None else outer.limited(of_life, checks.positive("max_agent_gradient_norm", limit))
    objective = parts.memory.mean_over_tasks(limited)

    def newborn(key: Key, theta: PyTree, index: jax.Array, end) -> lives.Life:
        task_key, life_key = jax.random.split(jax.random.fold_in(key, index))
        return lives.born(life_key, parts, theta, parts.env.sample_task(task_key), end)

    def population(key: Key, theta: PyTree) -> lives.Life:
        numbers = jnp.arange(trial.tasks)
        ends = whole if lifetime is None else (numbers + 1) * lifetime // trial.tasks
        ends = jnp.broadcast_to(jnp.maximum(ends, 1), numbers.shape)
        return over_tasks(lambda pair: newborn(key, theta, *pair), (numbers, ends))

    def next_window(key: Key, theta: PyTree, index: jax.Array, life: lives.Life):
        birth_key, window_key = jax.random.split(jax.random.fold_in(key, index))
        new, ended = newborn(birth_key, theta, index, whole), life.age >= life.end
        life, seen = lives.window(window_key, parts, theta, _where(ended, new, life))
        steps = seen.stages.trajectory.valid[1:].sum()
        # One broken life would put a NaN into the loss of all, where masking comes too late.
        broken = ~_finite((life.fast, seen.stages))
        return _where(broken, new, life), _where(broken, lives.forgotten(seen, new.fast), seen), ended, broken, steps

    def advance(key: Key, theta: PyTree, population: lives.Life):
        numbers = jnp.arange(trial.tasks)
        living, seen, ended, broken, steps = over_tasks(
            lambda pair: next_window(key, theta, *pair), (numbers, population)
        )
        metrics = outer.describe_window(seen.stages) | {
            "environment_steps": steps.sum(),  # those that were forgotten too
            "age": living.age.mean(dtype=float),
            "renewed": jnp.logical_or(ended, broken).sum(),
            "diverged_lives": broken.sum(),
        }
        return living, seen, metrics

    def init(key):
        theta_key, life_key = jax.random.split(key)
        theta = strongly_typed(parts.adapter.init_meta(theta_key))
        living = Living(outer_optimizer.init(theta), population(life_key, theta))
        return MetaState(params=theta, opt_state=living, iteration=jnp.zeros((), jnp.int32))

    def update(key, state):
        memory = state.opt_state
        living, seen, told = advance(key, state.params, memory.population)
        theta, opt_state, metrics = outer_optimizer.update(objective, state.params, memory.opt_state, seen)
        state = MetaState(params=theta, opt_state=Living(opt_state, living), iteration=state.iteration + 1)
        return state, told | metrics

    def gradient(key, theta):
        birth_key, window_key = jax.random.split(key)

        def next_windows(population, key):
            living, seen, told = advance(key, theta, population)
            return living, (seen, told)

        # The first update of a newborn learns nothing, so a window of one update takes a second one to tell of θ.
        windows = jax.random.split(window_key)
        _, seen_and_told = jax.lax.scan(next_windows, population(birth_key, theta), windows)
        seen, told = jax.tree.map(lambda leaf: leaf[-1], seen_and_told)
        (loss_now, metrics), descent = objective.value_and_gradient(theta, seen)
        ascent = jax.tree.map(jnp.negative, descent)
        return ascent, told | metrics | {"loss": loss_now, "meta_gradient_norm": optax.tree.norm(ascent)}

    def adapt(key, theta, task, steps=None):
        birth_key, life_key = jax.random.split(key)
        life = lives.born(birth_key, parts, theta, task, whole)
        # The newborn's first update learns nothing, so stage 0 is before any adaptation.
        stages = outer.with_steps(parts, steps).trial.stages
        life, seen = lives.live(life_key, parts, theta, life, stages, outer.summary)
        return Adaptation(parts.adapter.params(theta, life.fast), *seen)

    return entry_points(init, update, adapt, gradient, parts.policy, outer.online_life(parts))
