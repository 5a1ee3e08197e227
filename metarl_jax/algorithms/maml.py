"""MAML: model-agnostic meta-learning."""

import dataclasses

from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.compose import assemble, gradient_parts
from metarl_jax.keywords import by_keyword
from metarl_jax.options import DescentOptions, GradientOptions
from metarl_jax.outer import gradient_steps, ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class MamlOptions(GradientOptions, DescentOptions):
    """Policy-gradient steps inside, and Adam or an optimizer of your own outside."""


@by_keyword(MamlOptions)
def maml(env: TaskEnv, options: MamlOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]), φ = θ − α ∇ surrogate(θ; D_0): differentiates through the inner steps.

    Objective: the sampled update, whose path derivative this is, without the score term that the choice of D_0 adds
    (`credit=True` adds it: `e-maml`). With `likelihood_ratio`, `dice` or `loaded_dice` it follows the expected update.

    Finn, Abbeel, Levine (2017, arXiv:1703.03400).
    """
    return assemble(gradient_parts(env, options, ratio()), gradient_steps(options.descent()))
