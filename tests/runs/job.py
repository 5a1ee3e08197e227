"""One process of a job of test_distributed.py: ``python -m tests.runs.job HOST:PORT N I MODE [FILE or SECONDS]``."""

import functools
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import metarl_jax as mrl
from metarl_jax.runs.cluster import distributed
from metarl_jax.runs.console import cli

SILENCE = 5
ITERATIONS, STOP_AT = 9, 6
GROUPS = 4


@functools.cache
def algorithm():
    env = mrl.envs.make("point-nav", horizon=5)
    return mrl.algorithms.make("maml", env, tasks=2, episodes=3, policy={"hidden": (4,)})


@functools.partial(jax.jit, static_argnames="mesh")
def update(key, theta, mesh):
    """SGD on the mean over `GROUPS` groups of tasks, which the mesh shares; also every group's return before it."""
    keys = jax.lax.with_sharding_constraint(jax.random.split(key, GROUPS), NamedSharding(mesh, PartitionSpec("groups")))
    gradients, info = jax.vmap(algorithm().gradient, (0, None))(keys, theta)
    theta = jax.tree.map(lambda leaf, gradient: leaf + gradient.mean(0), theta, gradients)
    return jax.lax.with_sharding_constraint(theta, NamedSharding(mesh, PartitionSpec())), info["return"][:, 0]


def grid():
    return jax.sharding.Mesh(np.array(jax.devices()), ("groups",))


def initial(mesh, seed=0):
    init = jax.jit(lambda key: algorithm().init(key).params, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return init(jax.random.key(seed))


def train(signals):
    """Trains as a run would: who wants to stop and how long a chunk is differs by process, what is done does not."""
    seed, error = distributed.from_writer((0, "the disk is full") if distributed.is_writer() else (17, None))
    mesh = grid()
    theta, done, lengths, returns, spread = initial(mesh, seed), 0, [], [], False
    while done < ITERATIONS:
        if done >= STOP_AT and not distributed.is_writer():
            os.kill(os.getpid(), signal.SIGTERM)
        stop, count = distributed.agree(bool(signals), 1 + len(lengths) if distributed.is_writer() else 1000)
        if stop:
            break
        for i in range(done, done + count):
            theta, group_returns = update(jax.random.fold_in(jax.random.key(1), i), theta, mesh)
            returns.append(distributed.gather(group_returns))
            spread = not group_returns.is_fully_addressable
        done, lengths = done + count, [*lengths, count]
    leaves = jax.tree.leaves(distributed.gather(theta))
    return {
        "theta": np.concatenate([leaf.ravel() for leaf in leaves]),
        "returns": np.stack(returns),
        "lengths": np.array(lengths),
        "error": np.array(error),
        "spread": spread,
    }


def forever(mode):
    """Until killed: communicates all the time, or only computes for itself."""
    mesh = grid()
    x = jax.device_put(jnp.ones(GROUPS), NamedSharding(mesh, PartitionSpec("groups")))
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 1000, lambda _, x: 0 * x + x.mean(), x))
    step(x).block_until_ready()
    print("ready", flush=True)
    while True:
        if mode == "together":
            step(x).block_until_ready()
        else:
            sum(range(1000))


def main(argv):
    coordinator, num_processes, process_id, mode, *rest = argv
    signals = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))  # before JAX could set its own
    arrival = 1 if mode == "meet" else 60
    with cli.user_errors():
        distributed.start(coordinator, int(num_processes), int(process_id), arrival=arrival, silence=SILENCE)
    if mode == "train":
        np.savez(rest[0], **train(signals))
    elif mode == "fail" and process_id == "1":
        raise ZeroDivisionError("a bug that only process 1 has")
    elif mode == "refuse":
        raise cli.UserError(distributed.from_writer("the folder is locked" if distributed.is_writer() else ""))
    elif mode == "evaluate":
        time.sleep(float(rest[0]) if distributed.is_writer() else 0)
        print(f"process {process_id} is done", flush=True)
    else:
        with distributed.peer_errors():
            forever("together" if mode == "fail" else mode)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    sys.exit(distributed.run(lambda: cli.run(main)))
