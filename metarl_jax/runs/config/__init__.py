"""The configuration of a run, set by the command line and recorded in `config.json`, and what it describes.

Importing this package does not import JAX, so that `--help` is fast.
"""

from metarl_jax.runs.config.assembly import (
    ENV_SET_BY,
    Build,
    Built,
    algorithm_options,
    algorithm_value,
    build,
    folded,
    inner_rates,
    parse_options,
    programs_of,
    traced_numbers,
    usual_steps,
    with_env,
)
from metarl_jax.runs.config.options import FLAG_NAMES, AlgorithmConfig, PolicyConfig
from metarl_jax.runs.config.settings import ON_NONFINITE, OUTER_LR_SCHEDULES, SPLITS, EvaluationConfig, TrainConfig

__all__ = [
    "ENV_SET_BY",
    "FLAG_NAMES",
    "ON_NONFINITE",
    "OUTER_LR_SCHEDULES",
    "SPLITS",
    "AlgorithmConfig",
    "Build",
    "Built",
    "EvaluationConfig",
    "PolicyConfig",
    "TrainConfig",
    "algorithm_options",
    "algorithm_value",
    "build",
    "folded",
    "inner_rates",
    "parse_options",
    "programs_of",
    "traced_numbers",
    "usual_steps",
    "with_env",
]
