"""MAML through Loaded DiCE, which trades bias for variance in the second derivative."""

import dataclasses

from metarl_jax import checks, inner
from metarl_jax.algorithms.maml import MamlOptions, maml
from metarl_jax.base import MetaAlgorithm, Surrogate, TaskEnv
from metarl_jax.keywords import by_keyword


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedDiceOptions(MamlOptions):
    """Those of `maml`, with another inner loss."""

    surrogate: str | Surrogate = "loaded_dice"
    dice_lambda: float = 0.9
    """how fast the second derivative forgets the past; 1 means never"""


@by_keyword(LoadedDiceOptions)
def loaded_dice(env: TaskEnv, options: LoadedDiceOptions) -> MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]) through Loaded DiCE, whose second derivative forgets the past at the rate dice_lambda.

    Objective: the expected update. dice_lambda = 1 is `dice`, 0 is `maml` with the likelihood ratio. A surrogate
    of your own takes its place.

    Farquhar, Whiteson, Foerster (2019, arXiv:1909.10549).
    """
    dice_lambda = checks.share("dice_lambda", options.dice_lambda)
    if options.surrogate in (None, "loaded_dice"):
        options = dataclasses.replace(options, surrogate=inner.loaded_dice(dice_lambda))
    return maml.build(env, options)
