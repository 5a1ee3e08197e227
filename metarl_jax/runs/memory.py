"""Lower bounds of a run's memory, to reject impossible sizes before anything is allocated."""

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from metarl_jax.runs import config as configs
from metarl_jax.runs.config import Built, TrainConfig

if TYPE_CHECKING:
    from metarl_jax.base import TaskEnv
    from metarl_jax.types import PyTree

SCALARS = 3
"""minimum number of scalars per step besides observation and action: reward, discount, advantage"""


def memory_of_machine() -> int:
    """Bytes available to arrays: the memory of all local devices if they report it, as GPUs do, else the machine's."""
    import jax

    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    return sum(limits) if all(limits) else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_fits(what: str, needed: int, options: Mapping[str, int]) -> None:
    """Raises ValueError if `needed` exceeds the available memory.

    Args:
        what: description of the data, for the message.
        needed: lower bound in bytes.
        options: command-line options that determine the size, with their values.
    """
    available = memory_of_machine()
    if needed > available:
        # The largest values are the most likely mistakes, so they come first.
        sizes = ", ".join(f"--{name} {value}" for name, value in sorted(options.items(), key=lambda pair: -pair[1]))
        raise ValueError(
            f"{what} would take {_readable(needed)} at the least, and {_readable(available)} are there; "
            f"take less of {sizes}"
        )


def _readable(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def bytes_of(tree: "PyTree") -> int:
    """Size in bytes of a tree of arrays or of their shapes."""
    import jax

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_of_episode(env: "TaskEnv", horizon: int) -> int:
    """Lower bound of an episode's size in bytes."""
    import jax
    import jax.numpy as jnp

    from metarl_jax.actions import shape

    action = math.prod(shape(env))
    observation = jax.eval_shape(lambda key: env.reset(key, env.sample_task(key)).observation, jax.random.key(0))
    return horizon * (bytes_of(observation) + (action + SCALARS) * jnp.zeros(()).dtype.itemsize)


def check_run(built: Built, config: TrainConfig) -> None:
    """Checks that the states, data and evaluation of a run can fit into memory.

    Raises:
        ValueError: one of them cannot; the message names the options.
    """
    import jax

    state = jax.eval_shape(built.algorithm.init, jax.random.key(0))
    sizes = {"seeds": config.seeds} | _widest(config)
    check_fits("the parameters and what goes with them", config.seeds * bytes_of(state), sizes)

    names = ("tasks", "episodes", "adaptation_steps")
    tasks, episodes, steps = (configs.algorithm_value(config, name) or 0 for name in names)
    horizon = configs.algorithm_value(config, "horizon") or built.env.horizon
    needed = config.seeds * tasks * episodes * (steps + 1) * bytes_of_episode(built.env, horizon)
    sizes = {"seeds": config.seeds, "tasks": tasks, "episodes": episodes, "adaptation-steps": steps, "horizon": horizon}
    check_fits("the episodes of a meta-iteration", needed, sizes)
    check_evaluation(built, config)


def check_evaluation(built: Built, config: TrainConfig, together: int = 1) -> None:
    """Checks that an evaluation can fit into memory: each task has adapted parameters, and all run a stage at once.

    Args:
        built: environment and algorithm.
        config: the sizes.
        together: episodes of a stage, which run at once; at least 1.

    Raises:
        ValueError: it cannot; the message names the options.
    """
    import jax

    theta = jax.eval_shape(built.algorithm.init, jax.random.key(0)).params
    tasks, episodes = config.evaluation.eval_tasks, configs.algorithm_value(config, "episodes")
    horizon = configs.algorithm_value(config, "horizon") or built.env.horizon
    stage = together * bytes_of_episode(built.env, horizon)
    sizes = {"eval-tasks": tasks, "episodes": episodes, "horizon": horizon} | _widest(config)
    check_fits("the evaluation", tasks * (2 * bytes_of(theta) + stage), sizes)


def _widest(config: TrainConfig) -> dict[str, int]:
    return {} if config.policy.hidden is None else {"hidden": max(config.policy.hidden, default=0)}
