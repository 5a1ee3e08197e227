"""ES-MAML: evolution strategies outside, policy gradients inside, no backpropagation through either."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from metarl_jax import checks, outer
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.compose import assemble, gradient_parts
from metarl_jax.entry import entry_points
from metarl_jax.inner import is_critic
from metarl_jax.keywords import by_keyword
from metarl_jax.options import BurnInOptions, DescentOptions, FastOptions, InnerOptions
from metarl_jax.policies.likelihood import mean_of_counted

_NO_LOSS = "that is part of an outer loss, which es-maml does not have"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EsMamlOptions(InnerOptions, FastOptions, BurnInOptions, DescentOptions):
    """Policy-gradient steps inside, finite differences outside."""

    trials_per_task: ClassVar[int] = 2  # an antithetic pair
    sigma: float = 0.1
    """standard deviation of the perturbations of θ"""
    rank_shaping: bool = True
    """whether returns are replaced by their ranks"""
    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("credit", "credit_estimator", "entropy_weight", "multi_step_iterations"), _NO_LOSS
    )


@by_keyword(EsMamlOptions)
def es_maml(env: TaskEnv, options: EsMamlOptions) -> MetaAlgorithm:
    """θ ← Adam(1/(2σB) Σ_i (F_i(θ + σε_i) − F_i(θ − σε_i)) ε_i), F_i the counted return of a trial in task i.

    Objective: the sampled update, smoothed: E_ε[J(θ + σε)], ε ~ N(0, I). F_i is over T, like the others' gradients, and
    discounted with `discount_states` only. B `tasks` are B antithetic pairs, whose trials share task and random draws,
    so a meta-iteration takes twice the environment steps of the others. With `rank_shaping` the returns are replaced by
    their centred ranks; `gradient` never shapes, so it is unbiased.

    Song, Gao, Yang, Choromanski, Pacchiano, Tang (2020, arXiv:1910.01215); Salimans et al. (2017, arXiv:1703.03864).
    """
    step = options.descent()
    sigma, rank_shaping = checks.positive("sigma", options.sigma), checks.boolean("rank_shaping", options.rank_shaping)
    parts = gradient_parts(env, options, outer.ratio())
    if is_critic(options.baseline):
        raise ValueError("es-maml has no loss to learn a critic with; choose another baseline, such as 'leave_one_out'")

    def estimate(key, theta, shaped):
        noise, data, fitness, known = outer.antithetic(key, parts, theta, sigma)
        known = jnp.broadcast_to(known[:, None], fitness.shape)
        ascent = outer.smoothed_gradient(noise, outer.centred_ranks(fitness, known) if shaped else fitness, sigma)
        trials = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), data)
        own = {"loss": -mean_of_counted(fitness, known), "meta_gradient_norm": optax.tree.norm(ascent)}
        return ascent, outer.joined(outer.describe(trials.trajectory, trials.params, env.measure), own)

    def update(key, state):
        ascent, metrics = estimate(key, state.params, rank_shaping)
        steps, opt_state = step.update(jax.tree.map(jnp.negative, ascent), state.opt_state, state.params)
        moved = optax.apply_updates(state.params, steps)
        state = state.replace(params=moved, opt_state=opt_state, iteration=state.iteration + 1)
        return state, metrics | outer.rate_of(opt_state)

    composed = assemble(parts, outer.gradient_steps(step))
    functions = composed.init, update, composed.adapt, lambda key, theta: estimate(key, theta, shaped=False)
    return entry_points(*functions, composed.policy, composed.online)
