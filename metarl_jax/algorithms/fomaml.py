"""First-order MAML."""

import dataclasses

from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.checks import choose
from metarl_jax.inner import INNER_OPTIMIZERS, first_order
from metarl_jax.keywords import by_keyword


@by_keyword(MamlOptions)
def fomaml(env: TaskEnv, options: MamlOptions) -> MetaAlgorithm:
    """θ ← Adam(E_M[∇_φ R(φ)]): MAML with φ − θ held constant, so no second derivative is taken.

    Objective: the sampled update, of whose path derivative this is the first-order part.

    Finn, Abbeel, Levine (2017, arXiv:1703.03400), section 5.2.
    """
    if options.credit_estimator == "influence":
        raise ValueError("fomaml takes no derivative of its steps, so nothing is known of influence; leave it out")
    build = choose("inner_optimizer", options.inner_optimizer, INNER_OPTIMIZERS)
    return maml.build(env, dataclasses.replace(options, inner_optimizer=lambda rate: first_order(build(rate))))
