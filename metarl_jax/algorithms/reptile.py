"""Reptile: towards where each task's own steps lead."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from metarl_jax.base import MetaAlgorithm, MetaObjective, TaskEnv
from metarl_jax.compose import assemble, gradient_parts
from metarl_jax.inner import Critic
from metarl_jax.keywords import by_keyword
from metarl_jax.options import DescentOptions, InnerOptions
from metarl_jax.outer import gradient_steps, ratio
from metarl_jax.types import Theta

_NO_LOSS = ("burn_in", "credit", "credit_estimator", "entropy_weight", "multi_step_iterations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReptileOptions(InnerOptions, DescentOptions):
    """Policy-gradient steps inside, Adam outside, and no outer loss."""

    refused: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(_NO_LOSS, "that is part of an outer loss, which reptile does not have"),
        "fast_parameters": "reptile moves θ only where the inner steps move φ",
    }


@by_keyword(ReptileOptions)
def reptile(env: TaskEnv, options: ReptileOptions) -> MetaAlgorithm:
    """θ ← Adam(E_M[φ_L − θ]): no outer loss and no derivative of the inner steps.

    With one inner step the expected direction is that of the plain multi-task policy gradient; from two on it adds, to
    first order in α, what makes the gradients of a task's batches agree. Nothing of the objective J is estimated, so
    `burn_in` and `credit` mean nothing here. `gradient` is E[φ_L − θ].

    Nichol, Achiam, Schulman (2018, arXiv:1803.02999).
    """
    if options.adaptation_steps == 0:
        raise ValueError("adaptation_steps is 0, so φ is θ and reptile would learn nothing; take at least one step")
    baseline = options.baseline
    if baseline == "value_network" or (isinstance(baseline, Critic) and baseline.loss and not baseline.inner_weight):
        raise ValueError(
            "reptile has no outer loss to learn a critic with; give it inner_weight > 0, as in "
            "mrl.inner.value_network(observation_size, horizon, inner_weight=0.2), or choose another baseline"
        )
    parts = gradient_parts(env, options, ratio())
    if isinstance(jax.eval_shape(parts.adapter.init_meta, jax.random.key(0)), Theta):
        raise ValueError("reptile has no gradient to learn the inner update with; choose inner_optimizer='sgd'")

    def loss(theta, data):
        # ½ ‖θ − φ_L‖² with φ_L fixed data: its gradient is θ − φ_L.
        distance = jax.tree.map(
            lambda start, path: 0.5 * ((start - path[:, -1]) ** 2).mean(0).sum(), theta, data.params
        )
        return jnp.stack(jax.tree.leaves(distance)).sum(), {}

    return assemble(parts, gradient_steps(options.descent()), MetaObjective(loss))
