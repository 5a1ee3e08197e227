"""One θ for several task families, which may differ in observations, actions and sizes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.base import MetaAlgorithm
from metarl_jax.entry import entry_points
from metarl_jax.normalization import Normalized
from metarl_jax.recipes import Recipe
from metarl_jax.types import Metrics, PyTree


def _signature(theta: PyTree) -> tuple[Any, list[tuple[tuple[int, ...], Any]]]:
    leaves, tree = jax.tree.flatten(theta)
    return tree, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _numbers(theta: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(theta))


def _joint(metrics: Mapping[str, Metrics]) -> Metrics:
    """Metrics of all members as "member/metric", plus the mean return [S] and summed counts for the training loop."""
    joint = {f"{name}/{metric}": value for name, part in metrics.items() for metric, value in part.items()}
    for metric in sorted(set.intersection(*(set(part) for part in metrics.values()))):
        values = [jnp.asarray(part[metric]) for part in metrics.values()]
        if metric == "return" and len({value.shape for value in values}) == 1:
            joint[metric] = jnp.mean(jnp.stack(values), 0)
        elif all(jnp.issubdtype(value.dtype, jnp.integer) and not value.ndim for value in values):
            joint[metric] = jnp.sum(jnp.stack(values))
    return joint


def mixture(members: Mapping[str, MetaAlgorithm]) -> MetaAlgorithm:
    """An algorithm that learns ONE θ from several members: θ ← U_k(… U_2(U_1(θ))), with one update U_i per member.

    It is meant for a θ that does not depend on the environment, such as a learned update rule
    (`metarl_jax.algorithms.lpg`); the members can then have different observations, actions, horizons and populations.
    Each member has its own outer-optimiser state, so under Adam a family with large gradients does not dominate.
    ``gradient`` is the mean of the members' gradients at the same θ.

    ``adapt``, ``policy`` and ``online`` are those of the first member. For another family use
    ``members[name].adapt(key, state.params, task)``.

    Args:
        members: at least one algorithm, by name; their θ must have the same tree, shapes and dtypes.

    Returns:
        The algorithm. Member i draws from ``fold_in(key, i)``. `init` passes the same key to all members and takes θ
        from the first. Metrics are named "member/metric". There are also the mean over members of "return" [S], if all
        have the same S, and the sums of integer counts such as "environment_steps".

    Raises:
        ValueError: there is no member, a member is not an algorithm, a name contains a slash, or the θ differ.
    """
    if not isinstance(members, Mapping) or not members:
        raise ValueError(f"members is {members!r}; it must be a mapping of names to at least one MetaAlgorithm")
    named = dict(members)
    for name, member in named.items():
        if not isinstance(member, MetaAlgorithm):
            raise ValueError(f"member {name!r} is {member!r}; it must be a metarl_jax.MetaAlgorithm")
        if not isinstance(name, str) or "/" in name:
            raise ValueError(f"a member's name is {name!r}; it must be a text without '/', which metrics' names have")
    first_name, first = next(iter(named.items()))
    thetas = {name: jax.eval_shape(member.init, jax.random.key(0)).params for name, member in named.items()}
    for name, theta in thetas.items():
        if _signature(theta) != _signature(thetas[first_name]):
            raise ValueError(
                f"θ of member {name!r} ({_numbers(theta)} numbers) has not the tree, shapes and dtypes of that of "
                f"{first_name!r} ({_numbers(thetas[first_name])} numbers); members share one θ, so it must not depend "
                "on the environment's sizes, and all members need the same options of θ"
            )

        if isinstance(theta, Normalized) and theta.statistics.gain is not None:
            raise ValueError(
                f"member {name!r} normalises its rewards, whose unit would be that of all members together; leave "
                "normalize_rewards out"
            )

    def keys(key):
        return [jax.random.fold_in(key, index) for index in range(len(named))]

    def init(key):
        # One key for all members, so that each optimiser state belongs to the same θ.
        states = [member.init(key) for member in named.values()]
        return dataclasses.replace(states[0], opt_state=tuple(state.opt_state for state in states))

    def update(key, state):
        theta, opt_states, metrics = state.params, [], {}
        for (name, member), member_key, member_state in zip(named.items(), keys(key), state.opt_state, strict=True):
            new_state, metrics[name] = member.update(
                member_key, dataclasses.replace(state, params=theta, opt_state=member_state)
            )
            theta = new_state.params
            opt_states.append(new_state.opt_state)
        state = dataclasses.replace(state, params=theta, opt_state=tuple(opt_states), iteration=state.iteration + 1)
        return state, _joint(metrics)

    def gradient(key, theta):
        ascents, metrics = {}, {}
        for (name, member), member_key in zip(named.items(), keys(key), strict=True):
            ascents[name], metrics[name] = member.gradient(member_key, theta)
        mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *ascents.values())
        return mean, _joint(metrics)

    mixed = entry_points(init, update, first.adapt, gradient, first.policy, first.online)
    about = f"'mixture', {', '.join(f'{name}={one}' for name, one in named.items())}"
    return mixed._replace(recipe=Recipe("mixture", named, mixed, first.recipe and first.recipe.env, about))
