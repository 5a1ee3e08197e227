"""Reptile: towards where each task's own steps lead."""

import jax
import jax.numpy as jnp

from metarl_jax.base import MetaAlgorithm, MetaObjective, Surrogate, TaskEnv
from metarl_jax.compose import assemble, build_parts
from metarl_jax.inner import Critic
from metarl_jax.outer import gradient_steps, ratio, take_descent
from metarl_jax.types import Theta


def reptile(env: TaskEnv, *, surrogate: str | Surrogate = "score_function", **common) -> MetaAlgorithm:
    """θ ← Adam(E_M[φ_L − θ]): no outer loss and no derivative of the inner steps.

    With one inner step the expected direction is that of the plain multi-task policy gradient; from two on it adds, to
    first order in α, what makes the gradients of a task's batches agree. Nothing of the objective J is estimated, so
    `burn_in` and `credit` mean nothing here. `gradient` is E[φ_L − θ].

    Nichol, Achiam, Schulman (2018, arXiv:1803.02999).
    """
    if common.get("credit"):
        raise ValueError("credit belongs to an outer loss, and reptile has none; choose e-maml, or leave credit out")
    for name in ("entropy_weight", "multi_step_iterations"):
        if common.get(name):
            raise ValueError(f"{name} is of an outer loss, and reptile has none; leave it out")
    if common.get("burn_in") is not None:
        raise ValueError("burn_in belongs to an outer loss, and reptile has none; leave it out")
    if common.get("adaptation_steps") == 0:
        raise ValueError("adaptation_steps is 0, so φ is θ and reptile would learn nothing; take at least one step")
    if common.get("fast_parameters", "all") != "all":
        raise ValueError("reptile moves θ only where the inner steps move φ; leave fast_parameters out, or choose anil")
    baseline = common.get("baseline")
    if baseline == "value_network" or (isinstance(baseline, Critic) and baseline.loss and not baseline.inner_weight):
        raise ValueError(
            "reptile has no outer loss to learn a critic with; give it inner_weight > 0, as in "
            "mrl.inner.value_network(observation_size, horizon, inner_weight=0.2), or choose another baseline"
        )
    step, common = take_descent(common)
    parts = build_parts(env, objective=ratio(), surrogate=surrogate, **common)
    if isinstance(jax.eval_shape(parts.adapter.init_meta, jax.random.key(0)), Theta):
        raise ValueError("reptile has no gradient to learn the inner update with; choose inner_optimizer='sgd'")

    def loss(theta, data):
        # ½ ‖θ − φ_L‖² with φ_L fixed data: its gradient is θ − φ_L.
        distance = jax.tree.map(
            lambda start, path: 0.5 * ((start - path[:, -1]) ** 2).mean(0).sum(), theta, data.params
        )
        return jnp.stack(jax.tree.leaves(distance)).sum(), {}

    return assemble(parts, gradient_steps(step), MetaObjective(loss))
