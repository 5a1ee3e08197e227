"""Named programs for `benchmarks/accelerator.py`, with the sizes of the ProMP paper, scaled down for tests."""

import dataclasses
from collections.abc import Callable
from typing import Any

Built = tuple[Callable[..., Any], tuple[Any, ...], int]
"""A function, its arguments, and the number of environment steps per call"""

HORIZON, TASKS, EPISODES = 100, 40, 20


def sized(number: float, scale: float) -> int:
    return max(2, round(number * scale))


UNTUNED = "--xla_gpu_autotune_level=0"
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
LOOPS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL"
NO_BUFFERS = "--xla_gpu_enable_command_buffer="


@dataclasses.dataclass(frozen=True)
class Program:
    build: Callable[[float], Built]
    precision: str | None = None
    """matmul precision; None: the library's choice"""
    flags: str = ""
    """XLA_FLAGS for compilation"""


def bare(task: str, batch: int, *, backend: str = "spring", stages: int = 1, horizon: int = HORIZON) -> Program:
    """`stages` × `horizon` steps of `batch` environments under random actions: no policy, stored data or learning."""

    def build(scale: float) -> Built:
        import jax

        import metarl_jax as mrl
        from benchmarks.meta_iteration import simulation

        count, length = sized(batch, scale), sized(horizon, scale)
        env = mrl.envs.make(task, backend=backend, horizon=length)
        return simulation(env, count, length, stages), (jax.random.key(0),), stages * count * length

    return Program(build)


def trained(
    name: str,
    task: str,
    *,
    seeds: int = 1,
    only_collect: bool = False,
    tasks: int = TASKS,
    episodes: int = EPISODES,
    horizon: int = HORIZON,
    precision: str | None = None,
    flags: str = "",
    **options: Any,
) -> Program:
    """A meta-iteration of an algorithm, with several seeds by vmap, or only its first phase."""

    def build(scale: float) -> Built:
        import jax

        import metarl_jax as mrl

        env = mrl.envs.make(task, horizon=sized(horizon, scale))
        sizes = {"tasks": sized(tasks, scale), "episodes": sized(episodes, scale)}
        algorithm = mrl.algorithms.make(name, env, **sizes, **options)
        key = jax.random.key(0)
        if seeds > 1:
            keys = jax.random.split(key, seeds)
            arguments, update = (keys, jax.jit(jax.vmap(algorithm.init))(keys)), jax.vmap(algorithm.update)
        else:
            arguments, update = (key, jax.jit(algorithm.init)(key)), algorithm.update

        def collect(key, state):
            keys = jax.random.split(key, sizes["tasks"])
            return jax.vmap(lambda k: algorithm.adapt(k, state.params, env.sample_task(k)))(keys)

        # Jitted, so that it is traced only once, for shapes and compilation.
        run = jax.jit(collect if only_collect else update)
        out = jax.eval_shape(run, *arguments)
        # Stages of recurrent policies are single episodes.
        stages = out.returns.shape[1] if only_collect else out[1]["return"].shape[-1]
        per_stage = 1 if name.startswith("rl2") else sizes["episodes"]
        return run, arguments, seeds * sizes["tasks"] * stages * per_stage * env.horizon

    return Program(build, precision, flags)


PROGRAMS: dict[str, Program] = {
    "bare cheetah spring 800": bare("cheetah-dir", 800, stages=2),
    "promp cheetah": trained("promp", "cheetah-dir"),
    "promp cheetah, 8 seeds": trained("promp", "cheetah-dir", seeds=8),
    "promp cheetah, 32 seeds": trained("promp", "cheetah-dir", seeds=32),
    "promp cheetah, 400 tasks": trained("promp", "cheetah-dir", tasks=400),
    "promp cheetah, untuned": trained("promp", "cheetah-dir", flags=UNTUNED),
    "promp cheetah, deterministic": trained("promp", "cheetah-dir", flags=DETERMINISTIC),
    "promp cheetah, loops in command buffers": trained("promp", "cheetah-dir", flags=LOOPS),
    "promp cheetah, platform's precision": trained("promp", "cheetah-dir", precision="default"),
    "promp cheetah, collect": trained("promp", "cheetah-dir", only_collect=True),
    "promp point-nav": trained("promp", "point-nav"),
    "promp point-nav, untuned": trained("promp", "point-nav", flags=UNTUNED),
    "promp point-nav, deterministic": trained("promp", "point-nav", flags=DETERMINISTIC),
    "maml-trpo point-nav": trained("maml-trpo", "point-nav"),
    "rl2 point-nav": trained("rl2", "point-nav", episodes=1),
    "rl2 five arms": trained("rl2", "bernoulli-bandit", tasks=2400, episodes=1, epochs=2, minibatches=8),
    "rl2 five arms, 256 numbers": trained(
        "rl2", "bernoulli-bandit", tasks=2400, episodes=1, epochs=2, minibatches=8, memory_size=256
    ),
    "promp point-nav, 32 seeds": trained("promp", "point-nav", seeds=32),
    "promp point-nav, loops in command buffers": trained("promp", "point-nav", flags=LOOPS),
    "promp point-nav, no command buffers": trained("promp", "point-nav", flags=NO_BUFFERS),
    "promp point-nav, leave one out": trained("promp", "point-nav", baseline="leave_one_out"),
    # The same program twice, to check that programs compiled by different processes give identical results.
    "promp point-nav, again": trained("promp", "point-nav"),
    "promp reacher": trained("promp", "reacher-goal", horizon=50),
    "promp reacher, again": trained("promp", "reacher-goal", horizon=50),
    "promp reacher, deterministic": trained("promp", "reacher-goal", horizon=50, flags=DETERMINISTIC),
    "promp reacher, deterministic, again": trained("promp", "reacher-goal", horizon=50, flags=DETERMINISTIC),
    "bare cheetah spring 400": bare("cheetah-dir", 400),
    "bare cheetah spring 4096": bare("cheetah-dir", 4096),
    "bare cheetah spring 16384": bare("cheetah-dir", 16384),
    "bare cheetah spring 65536": bare("cheetah-dir", 65536),
    "bare ant spring 800": bare("ant-dir", 800),
    "bare ant spring 8192": bare("ant-dir", 8192),
    "bare ant spring 65536": bare("ant-dir", 65536),
    "bare cheetah mjx 800": bare("cheetah-dir", 800, backend="mjx", horizon=20),
    "bare cheetah mjx 8192": bare("cheetah-dir", 8192, backend="mjx", horizon=20),
    "bare ant mjx 800": bare("ant-dir", 800, backend="mjx", horizon=20),
    "bare ant mjx 8192": bare("ant-dir", 8192, backend="mjx", horizon=20),
}

GROUPS: tuple[tuple[str, ...], ...] = (
    tuple(name for name in PROGRAMS if name == "bare cheetah spring 800" or name.startswith("promp cheetah")),
    tuple(name for name in PROGRAMS if "point-nav" in name or "five arms" in name),
    tuple(name for name in PROGRAMS if name.startswith("promp reacher")),
    tuple(name for name in PROGRAMS if name.startswith("bare") and name != "bare cheetah spring 800"),
)
"""groups of programs timed together, the most important first; measurements in a group alternate, so that ratios are
of neighbours"""
