"""One θ for several families of tasks, whose agents may have other observations, actions and sizes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.base import MetaAlgorithm
from metarl_jax.entry import entry_points
from metarl_jax.types import Metrics, PyTree


def _signature(theta: PyTree) -> tuple[Any, list[tuple[tuple[int, ...], Any]]]:
    leaves, tree = jax.tree.flatten(theta)
    return tree, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _numbers(theta: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(theta))


def _joint(metrics: Mapping[str, Metrics]) -> Metrics:
    """Every member's metrics as "member/metric", and what a training loop reads: the mean return [S], summed counts."""
    told = {f"{name}/{metric}": value for name, own in metrics.items() for metric, value in own.items()}
    for metric in sorted(set.intersection(*(set(own) for own in metrics.values()))):
        values = [jnp.asarray(own[metric]) for own in metrics.values()]
        if metric == "return" and len({value.shape for value in values}) == 1:
            told[metric] = jnp.mean(jnp.stack(values), 0)
        elif all(jnp.issubdtype(value.dtype, jnp.integer) and not value.ndim for value in values):
            told[metric] = jnp.sum(jnp.stack(values))
    return told


def mixture(members: Mapping[str, MetaAlgorithm]) -> MetaAlgorithm:
    """The algorithm that learns ONE θ from several: θ ← U_k(… U_2(U_1(θ))), one update U_i of every member in turn.

    It is for a θ that does not depend on the environment, as an update rule does (`metarl_jax.algorithms.lpg`): the
    members are then made for environments of different observations, actions, horizons and populations. Each member
    keeps its own outer optimiser's state, so a family with large gradients does not drown the others under Adam.
    ``gradient`` is the mean of the members' gradients, each at the same θ.

    ``adapt``, ``policy`` and ``online`` are those of the first member. For another family take its own:
    ``members[name].adapt(key, state.params, task)``.

    Args:
        members: the algorithms by name; at least one, and all with a θ of the same tree, shapes and dtypes.

    Returns:
        The algorithm. Member i draws from ``fold_in(key, i)``, but at the start all from the key itself, which gives
        them the same θ where their `init` draws θ alike; if not, it is that of the first. Metrics are named
        "member/metric"; beside them stand the mean over members of "return" [S], where all have the same S, and the
        sums of their counts, such as "environment_steps".

    Raises:
        ValueError: there is no member, one is no algorithm, a name has a slash in it, or their θ differ.
    """
    if not isinstance(members, Mapping) or not members:
        raise ValueError(f"members is {members!r}; it must be a mapping of names to at least one MetaAlgorithm")
    own = dict(members)
    for name, member in own.items():
        if not isinstance(member, MetaAlgorithm):
            raise ValueError(f"member {name!r} is {member!r}; it must be a metarl_jax.MetaAlgorithm")
        if not isinstance(name, str) or "/" in name:
            raise ValueError(f"a member's name is {name!r}; it must be a text without '/', which metrics' names have")
    first_name, first = next(iter(own.items()))
    thetas = {name: jax.eval_shape(member.init, jax.random.key(0)).params for name, member in own.items()}
    for name, theta in thetas.items():
        if _signature(theta) != _signature(thetas[first_name]):
            raise ValueError(
                f"θ of member {name!r} ({_numbers(theta)} numbers) has not the tree, shapes and dtypes of that of "
                f"{first_name!r} ({_numbers(thetas[first_name])} numbers); members share one θ, so it must not depend "
                "on the environment's sizes, and all members need the same options of θ"
            )

    def keys(key):
        return [jax.random.fold_in(key, index) for index in range(len(own))]

    def init(key):
        # One key for all, so that every optimiser's state is that of the same θ.
        states = [member.init(key) for member in own.values()]
        return dataclasses.replace(states[0], opt_state=tuple(state.opt_state for state in states))

    def update(key, state):
        theta, memories, metrics = state.params, [], {}
        for (name, member), each, memory in zip(own.items(), keys(key), state.opt_state, strict=True):
            after, metrics[name] = member.update(each, dataclasses.replace(state, params=theta, opt_state=memory))
            theta = after.params
            memories.append(after.opt_state)
        state = dataclasses.replace(state, params=theta, opt_state=tuple(memories), iteration=state.iteration + 1)
        return state, _joint(metrics)

    def gradient(key, theta):
        ascents, metrics = {}, {}
        for (name, member), each in zip(own.items(), keys(key), strict=True):
            ascents[name], metrics[name] = member.gradient(each, theta)
        mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *ascents.values())
        return mean, _joint(metrics)

    return entry_points(init, update, first.adapt, gradient, first.policy, first.online)
