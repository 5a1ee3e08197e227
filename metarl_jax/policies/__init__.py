"""π_φ: action distributions, networks, and likelihoods along a trajectory."""

from metarl_jax.policies.distributions import Beta, Categorical, DiagonalGaussian, MultiCategorical, SquashedGaussian
from metarl_jax.policies.encoders import Encoder, encoder
from metarl_jax.policies.likelihood import kl_from_behavior, log_prob, masked_mean, probability_ratio
from metarl_jax.policies.make import make_policy
from metarl_jax.policies.modes import at_mode
from metarl_jax.policies.networks import (
    beta_mlp,
    categorical_mlp,
    gaussian_mlp,
    mlp,
    multi_categorical_mlp,
    squashed_mlp,
)
from metarl_jax.policies.recurrent import gru, hypernetwork

__all__ = [
    "Beta",
    "Categorical",
    "DiagonalGaussian",
    "Encoder",
    "MultiCategorical",
    "SquashedGaussian",
    "at_mode",
    "beta_mlp",
    "categorical_mlp",
    "encoder",
    "gaussian_mlp",
    "gru",
    "hypernetwork",
    "kl_from_behavior",
    "log_prob",
    "make_policy",
    "masked_mean",
    "mlp",
    "multi_categorical_mlp",
    "probability_ratio",
    "squashed_mlp",
]
