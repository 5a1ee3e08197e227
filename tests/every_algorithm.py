"""Trains algorithms on several devices, each with its own defaults: ``python -m tests.every_algorithm SEEDS NAME...``.

JAX asks for the number of devices as it starts, so test_devices.py runs this. A line for each algorithm; one that takes
longer than LIMIT seconds ends the process, and is the one whose line has no end.
"""

import faulthandler
import os
import sys

import jax
import numpy as np

import metarl_jax as mrl
from metarl_jax import devices, training

LIMIT = float(os.environ.get("LIMIT", "150"))


def trained(name, seeds):
    env = mrl.envs.make("point-nav")
    algorithm = mrl.algorithms.make(name, env, policy={"hidden": (8,)})
    grid = devices.mesh(tasks=mrl.algorithms.options(name)["tasks"], seeds=seeds)
    root = jax.random.key(0) if seeds == 1 else jax.random.split(jax.random.key(0), seeds)
    with jax.set_mesh(grid):
        *_, last = training.train(algorithm, root, 3)
    assert len(last.state.iteration.sharding.device_set) == len(jax.devices())
    return f"{np.max(last.state.iteration)} updates"


def main(seeds, names):
    for name in names:
        print(f"{name}:", end=" ", flush=True)
        faulthandler.dump_traceback_later(LIMIT, exit=True)  # by a thread of its own, which waits for no device
        try:
            print(trained(name, seeds), flush=True)
        except ValueError as error:
            print(error, flush=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
