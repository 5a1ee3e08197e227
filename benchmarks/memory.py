"""Working memory that XLA plans for one outer gradient, with and without recomputation and task chunks.

python benchmarks/memory.py      # five inner steps of 40 tasks × 40 episodes × 200 steps, a 100 × 100 policy
"""

import dataclasses
from datetime import date
from pathlib import Path

import jax
import tyro

import metarl_jax as mrl
from benchmarks import common
from metarl_jax.compose import build_parts


@dataclasses.dataclass(frozen=True)
class Arguments:
    tasks: int = 40
    """B"""
    episodes: int = 40
    """N"""
    horizon: int = 200
    """T"""
    adaptation_steps: int = 5
    """L"""
    hidden: tuple[int, ...] = (100, 100)
    """layers of the policy"""
    task_chunk: int = 4
    """tasks per chunk, if chunked"""
    output: Path | None = None
    """JSON output file"""


def planned_bytes(arguments: Arguments, **memory) -> int:
    """Temporary bytes of the compiled ∇_θ loss(θ; data), without its arguments such as the data."""
    env = mrl.envs.make("point-nav", horizon=arguments.horizon)
    parts = build_parts(
        env,
        objective=mrl.outer.ratio(),
        policy={"hidden": arguments.hidden},
        tasks=arguments.tasks,
        episodes=arguments.episodes,
        adaptation_steps=arguments.adaptation_steps,
        **memory,
    )
    theta = jax.eval_shape(parts.adapter.init_meta, jax.random.key(0))
    data = jax.eval_shape(lambda theta: mrl.outer.collect_tasks(jax.random.key(0), parts, theta), theta)
    return common.planned_bytes(
        jax.jit(mrl.outer.meta_objective(parts).value_and_gradient).lower(theta, data).compile()
    )


def main(arguments: Arguments) -> None:
    settings = {
        "everything stored": {"task_chunk": arguments.tasks},
        "remat": {"task_chunk": arguments.tasks, "remat": True},
        "the default": {},
        f"task_chunk={arguments.task_chunk}": {"task_chunk": arguments.task_chunk},
        f"remat, task_chunk={arguments.task_chunk}": {"remat": True, "task_chunk": arguments.task_chunk},
    }
    sizes = f"{arguments.tasks} tasks × {arguments.episodes} episodes × {arguments.horizon} steps"
    machine = common.machine()
    print(f"{arguments.adaptation_steps} inner steps of {sizes}, hidden {arguments.hidden}; {machine}; {date.today()}")
    gibibytes = {}
    for name, options in settings.items():
        gibibytes[name] = planned_bytes(arguments, **options) / 2**30
        print(f"  {name:<24}{gibibytes[name]:8.2f} GiB")
    if arguments.output:
        described = {name: str(value) for name, value in vars(arguments).items() if name != "output"}
        result = {"machine": machine, "date": str(date.today()), "arguments": described, "gibibytes": gibibytes}
        common.write(result, arguments.output)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
