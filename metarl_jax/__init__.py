"""Gradient-based meta-reinforcement learning in JAX: φ = f_θ(D) for every task, and the gradient of J(θ) through it."""

from metarl_jax import algorithms, envs, evaluation, inner, outer, policies, training
from metarl_jax.base import Adapter, MetaAlgorithm, Policy, TaskEnv, Trial
from metarl_jax.rollout import rollout
from metarl_jax.types import Adaptation, MetaState, Trajectory

__version__ = "0.1.0"

__all__ = [
    "Adaptation",
    "Adapter",
    "MetaAlgorithm",
    "MetaState",
    "Policy",
    "TaskEnv",
    "Trajectory",
    "Trial",
    "algorithms",
    "envs",
    "evaluation",
    "inner",
    "outer",
    "policies",
    "rollout",
    "training",
]
