"""Time of a meta-iteration, relative to simulating the same number of environment steps, and its split by phase.

python benchmarks/meta_iteration.py
python benchmarks/meta_iteration.py --repeats 9 --output benchmarks/results/meta_iteration.json
python benchmarks/meta_iteration.py --backends spring mujoco    # only ProMP on cheetah-dir on each

Everything runs in one process. Compared programs alternate, so that noise affects them equally, and ratios are of
neighbouring measurements. CPU-seconds are of all threads.

The reported lower bound is the time of the matrix products alone, at the rate of a single such product in this process,
plus the measured collection. An epoch is twelve times the products of one forward pass over a stage: a pass on D₀ and
one on D₁, the inner gradient (two), and the backward pass through both and the gradient (eight).
"""

import dataclasses
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import metarl_jax as mrl
from benchmarks import common
from metarl_jax import actions

# CPU-seconds of all processes per meta-iteration of 20 tasks × 20 episodes × 100 steps with one inner step, on two
# cores, November 2026, as measured for this project: a reference, which is not run here. Neither can be installed by
# pip: both are repositories that need TensorFlow 1 or a Gym from before 2022, which no Python supported by JAX has.
PEERS = {
    "point-nav": {"pytorch-maml-rl (MAML-TRPO)": 5.7, "ProMP on TF1 (ProMP)": 5.5, "ProMP on TF1 (MAML-TRPO)": 8.7},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    repeats: int = 5
    """number of measurements per side"""
    tasks: int = 20
    """B"""
    episodes: int = 20
    """N"""
    horizon: int = 100
    """T"""
    cheetah: bool = True
    """measure the ratio on cheetah: one minute to compile, one to run"""
    backends: tuple[str, ...] = ()
    """measure only a meta-iteration of promp on cheetah-dir@promp2019, on each of these backends"""
    output: Path | None = None
    """JSON output file"""


def simulation(env: mrl.TaskEnv, batch: int, horizon: int, stages: int) -> Callable[[jax.Array], jax.Array]:
    """`stages` × `horizon` steps of `batch` environments under random actions: no policy, stored data or learning."""

    def simulate(key):
        tasks = jax.vmap(env.sample_task)(jax.random.split(key, batch))

        def stage(total, key):
            reset_key, action_key = jax.random.split(key)
            start = jax.vmap(env.reset)(jax.random.split(reset_key, batch), tasks)

            def step(state, key):
                action = jax.random.normal(key, (batch, *actions.shape(env)))
                return jax.vmap(env.step)(tasks, state, action), None

            end, _ = jax.lax.scan(step, start, jax.random.split(action_key, horizon))
            return total + end.reward.sum(), None

        return jax.lax.scan(stage, jnp.zeros(()), jax.random.split(key, stages))[0]

    return simulate


def bare_simulation(env: mrl.TaskEnv, batch: int, horizon: int, stages: int) -> Callable[[], Any]:
    """`simulation`, with a new key per call."""
    jitted, keys = jax.jit(simulation(env, batch, horizon, stages)), iter(range(10**9))
    return lambda: jitted(jax.random.key(next(keys)))


def iteration(algorithm: mrl.MetaAlgorithm) -> Callable[[], Any]:
    """A meta-iteration from the same θ, with new data per call."""
    state = algorithm.init(jax.random.key(0))
    jitted, keys = jax.jit(algorithm.update), iter(range(10**9))
    return lambda: jitted(jax.random.key(next(keys)), state)


def collection(algorithm: mrl.MetaAlgorithm, env: mrl.TaskEnv, tasks: int) -> Callable[[], Any]:
    """The first phase of a meta-iteration alone: the trials of all tasks."""
    theta = algorithm.init(jax.random.key(0)).params

    def collect(key):
        keys = jax.random.split(key, tasks)
        return jax.vmap(lambda k: algorithm.adapt(k, theta, env.sample_task(k)))(keys)

    jitted, keys = jax.jit(collect), iter(range(10**9))
    return lambda: jitted(jax.random.key(next(keys)))


def ratio_to_simulation(name: str, arguments: Arguments) -> dict[str, Any]:
    env = mrl.envs.make(name, horizon=arguments.horizon)
    algorithm = mrl.algorithms.make("maml", env, tasks=arguments.tasks, episodes=arguments.episodes)
    bare = bare_simulation(env, arguments.tasks * arguments.episodes, arguments.horizon, stages=2)
    seconds = common.alternate(arguments.repeats, iteration(algorithm), bare)
    ratio = seconds[:, 0] / seconds[:, 1]
    steps = 2 * arguments.tasks * arguments.episodes * arguments.horizon
    return {
        "environment": env.name,
        "environment_steps": steps,
        "wall_ratio_median": float(np.median(ratio[:, 0])),
        "wall_ratio_range": [float(ratio[:, 0].min()), float(ratio[:, 0].max())],
        "cpu_ratio_median": float(np.median(ratio[:, 1])),
        "cpu_ratio_range": [float(ratio[:, 1].min()), float(ratio[:, 1].max())],
        "bare_steps_per_second": float(steps / np.median(seconds[:, 1, 0])),
        "bare_steps_per_cpu_second": float(steps / np.median(seconds[:, 1, 1])),
    }


EPOCHS, PRODUCTS, HIDDEN = 5, 12, 64
"""of ProMP, of an epoch in forward passes, and units of either layer, as the defaults are"""


def floor(env: mrl.TaskEnv, arguments: Arguments, collect: float) -> float:
    """Lower bound of an iteration's CPU-seconds: matrix products, plus the collection, which takes `collect`."""
    rows, repeats = arguments.episodes * arguments.horizon, 200
    weights = jnp.eye(HIDDEN)

    def products(x):
        return jax.lax.scan(lambda x, _: (x @ weights, None), x, length=repeats)[0]

    jitted = jax.jit(products)
    _, cpu = np.median(common.alternate(arguments.repeats, lambda: jitted(jnp.ones((rows, HIDDEN)))), axis=0)[0]
    rate = 2 * rows * HIDDEN**2 * repeats / cpu
    forward = 2 * (env.observation_size + HIDDEN + actions.vector_size(env)) * HIDDEN * arguments.tasks * rows
    return collect + EPOCHS * PRODUCTS * forward / rate


def split_by_phase(name: str, arguments: Arguments) -> dict[str, Any]:
    env = mrl.envs.make(name, horizon=arguments.horizon)
    algorithm = mrl.algorithms.make("promp", env, tasks=arguments.tasks, episodes=arguments.episodes)
    seconds = common.alternate(arguments.repeats, iteration(algorithm), collection(algorithm, env, arguments.tasks))
    whole, collect = np.median(seconds, axis=0)
    lowest = floor(env, arguments, collect[1])
    return {
        "environment": env.name,
        "algorithm": "promp, 5 epochs",
        "wall_seconds": {"iteration": whole[0], "collect": collect[0], "outer": whole[0] - collect[0]},
        "cpu_seconds": {"iteration": whole[1], "collect": collect[1], "outer": whole[1] - collect[1]},
        "cpu_seconds_floor": lowest,
        "cpu_seconds_range": [float(seconds[:, 0, 1].min()), float(seconds[:, 0, 1].max())],
        "peers_cpu_seconds": PEERS.get(name, {}),
    }


class HostCalls:
    """Counts the calls of MuJoCo's engine and the process's CPU-seconds during them."""

    def __init__(self, robot: str):
        from metarl_jax.envs.mujoco_engine import engine

        self.calls, self.cpu = 0, 0.0
        host: Any = engine(robot)
        step = host.step

        def counted(*arguments):
            before = time.process_time()
            result = step(*arguments)
            self.calls, self.cpu = self.calls + 1, self.cpu + time.process_time() - before
            return result

        host.step = counted  # before anything is traced, so that programs call this one


def by_backend(arguments: Arguments) -> dict[str, Any]:
    host = HostCalls("halfcheetah") if "mujoco" in arguments.backends else None
    updates = []
    for backend in arguments.backends:
        env = mrl.envs.make("cheetah-dir@promp2019", horizon=arguments.horizon, backend=backend)
        updates.append(iteration(mrl.algorithms.make("promp", env, tasks=arguments.tasks, episodes=arguments.episodes)))
    seconds = common.alternate(arguments.repeats, *updates)
    steps = 2 * arguments.tasks * arguments.episodes * arguments.horizon
    results: dict[str, Any] = {}
    for index, backend in enumerate(arguments.backends):
        wall, cpu = seconds[:, index].T
        results[backend] = found = {
            "steps_per_second": float(steps / np.median(wall)),
            "steps_per_cpu_second": float(steps / np.median(cpu)),
            "times_first_wall": float(np.median(seconds[:, 0, 0] / wall)),
            "times_first_cpu": float(np.median(seconds[:, 0, 1] / cpu)),
        }
        if backend == "mujoco" and host is not None:
            rounds = arguments.repeats + 1  # the first of `alternate`, which compiles, calls the host as often
            found["host_calls_per_update"] = host.calls / rounds
            found["physics_share_of_cpu"] = host.cpu / rounds / float(np.mean(cpu))
    return results


def main(arguments: Arguments) -> None:
    sizes = f"{arguments.tasks} tasks × {arguments.episodes} episodes × {arguments.horizon} steps × 2 stages"
    machine = common.machine()
    print(f"{sizes}; {machine}; {date.today()}; medians of {arguments.repeats}")
    results: dict[str, Any] = {"machine": machine, "date": str(date.today()), "sizes": sizes, "phases": []}
    if arguments.backends:
        results["backends"] = by_backend(arguments)
        for backend, figures in results["backends"].items():
            print(f"\n{backend}, promp on cheetah-dir@promp2019")
            for name, value in figures.items():
                print(f"  {name:<24}{value:12,.2f}")
    for name in () if arguments.backends else ("point-nav", "reacher-goal"):
        phases = split_by_phase(name, arguments)
        results["phases"].append(phases)
        cpu, wall = phases["cpu_seconds"], phases["wall_seconds"]
        low, high = phases["cpu_seconds_range"]
        print(f"\n{phases['environment']}, {phases['algorithm']}")
        for phase in ("collect", "outer", "iteration"):
            print(f"  {phase:<10}{cpu[phase]:7.2f} CPU-s {wall[phase]:7.2f} s")
        print(f"  {'range':<10}{low:7.2f} to {high:.2f} CPU-s")
        print(f"  {'floor':<10}{phases['cpu_seconds_floor']:7.2f} CPU-s")
        for peer, value in phases["peers_cpu_seconds"].items():
            print(f"  {peer}: {value} CPU-s, {value / cpu['iteration']:.1f} × ours; measured before, not run here")
    if arguments.cheetah and not arguments.backends:
        results["cheetah"] = figures = ratio_to_simulation("cheetah-dir", arguments)
        print(f"\n{figures['environment']}, MAML with one Adam step, against bare simulation of as many steps")
        for clock in ("wall", "cpu"):
            low, high = figures[f"{clock}_ratio_range"]
            print(f"  {clock} ratio {figures[f'{clock}_ratio_median']:.2f} ({low:.2f} to {high:.2f})")
        wall, cpu = figures["bare_steps_per_second"], figures["bare_steps_per_cpu_second"]
        print(f"  bare: {wall:,.0f} steps/s, {cpu:,.0f} per CPU-s")
    if arguments.output:
        common.write(results, arguments.output)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
