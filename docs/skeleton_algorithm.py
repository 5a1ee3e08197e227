"""An algorithm of your own, to start from: MAML whose inner gradient is scaled by random numbers.

In the package it would be a file of metarl_jax/algorithms, with a line in its __init__.py instead of `register`.
Outside of it, every script knows the algorithm by ``--import skeleton_algorithm``:

    metarl-train --import skeleton_algorithm --algorithm scaled-maml --noise-scale 0.1 --task point-nav
"""

import dataclasses

import jax

import metarl_jax as mrl
from metarl_jax.algorithms.maml import MamlOptions
from metarl_jax.base import InnerOptimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledMamlOptions(MamlOptions):
    """Those of `maml`, and one more. The string below a field is its documentation everywhere."""

    noise_scale: float = 0.0
    """standard deviation of noise in the inner gradient, as a share of it; 0 is `maml`"""


def noisy(optimizer: InnerOptimizer, scale: float) -> InnerOptimizer:
    """φ ← φ − α (1 + σ ε) g, ε ~ N(0, 1) per parameter, the same in collection and replay."""

    def update(gradient, state, params, learned):
        leaves, tree = jax.tree.flatten(gradient)
        keys = jax.random.split(jax.random.key(0), len(leaves))
        factors = [1 + scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        scaled = tree.unflatten([factor * leaf for factor, leaf in zip(factors, leaves, strict=True)])
        return optimizer.update(scaled, state, params, learned)

    return optimizer._replace(update=update)


@mrl.algorithms.by_keyword(ScaledMamlOptions)
def scaled_maml(env: mrl.TaskEnv, options: ScaledMamlOptions) -> mrl.MetaAlgorithm:
    """θ ← Adam(∇_θ E_M[R(φ)]), φ = θ − α (1 + σ ε) ∘ ∇ surrogate(θ; D_0): MAML with noise in its inner steps."""
    if not options.noise_scale:
        return mrl.algorithms.maml.build(env, options)
    named = options.inner_optimizer
    build = mrl.inner.INNER_OPTIMIZERS[named] if isinstance(named, str) else named
    own = dataclasses.replace(options, inner_optimizer=lambda rate: noisy(build(rate), options.noise_scale))
    return mrl.algorithms.maml.build(env, own)


mrl.algorithms.register("scaled-maml", scaled_maml)
