"""What a process with four devices refuses, and what it does not wait for; test_devices.py runs this."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

import metarl_jax as mrl
from metarl_jax import devices
from metarl_jax.devices import TASKS
from metarl_jax.inner.baselines import triangular_factor
from metarl_jax.runs.cli import UserError
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.options import AlgorithmConfig, PolicyConfig
from metarl_jax.runs.run import train_run

NAMES = mrl.algorithms.names()
TASKS_OF = {name: mrl.algorithms.options(name)["tasks"] for name in NAMES}
REFUSED = [  # devices, algorithm, options, what is said
    *((3, name, {}, f"tasks is {TASKS_OF[name]}, which 3 devices cannot share evenly; the nearest") for name in NAMES),
    *(
        (
            2,
            name,
            {},
            "minibatches is 4, of 25 tasks each, which the 2 .* choose minibatches from 1, 2, 5, 10, 25, 50, or",
        )
        for name in ("rl2", "rl2-hyper")
    ),
    (2, "self-tuning", {}, "tasks is 1, which 2 devices cannot share evenly; the nearest tasks that they can: 2"),
    *(
        (2, name, {"tasks": 20, "task_chunk": 5}, "task_chunk is 5, .* 2 devices .* choose a multiple of 2")
        for name in NAMES
        if "task_chunk" in mrl.algorithms.options(name) and not name.startswith("rl2")
    ),
    (2, "rl2", {"tasks": 20, "task_chunk": 5, "minibatches": 1}, "task_chunk is 5, .* choose a multiple of 2"),
    (4, "rl2", {"tasks": 4, "minibatches": 4}, "minibatches is 4, of 1 tasks .* choose minibatches from 1, or fewer"),
]


@pytest.mark.parametrize(("number", "name", "options", "message"), REFUSED)
def test_sizes_that_do_not_go_together_are_refused_before_the_folder(tmp_path, number, name, options, message):
    config = TrainConfig(
        task="point-nav",
        horizon=3,
        algorithm=name,
        algorithm_options=AlgorithmConfig(**options),
        policy=PolicyConfig(hidden=(4,)),
        devices=number,
        folder=str(tmp_path / "run"),
    )
    with pytest.raises(UserError, match=message):
        train_run(config, Console(quiet=True))
    assert not list(tmp_path.iterdir())


MATRICES = np.random.default_rng(0).normal(size=(20, 2000, 16)).astype(np.float32)


def often(matrices):
    """R of the matrices a hundred times, each time of others."""

    def again(_, offset):
        return jax.vmap(triangular_factor)(matrices + offset).mean() * 1e-3

    return jax.lax.fori_loop(0, 100, again, jnp.zeros(()))


@pytest.mark.parametrize("number", [2, 4])
def test_least_squares_on_several_devices_wait_for_nobody(number):
    grid = devices.mesh(number, tasks=20)
    with jax.set_mesh(grid):
        spread = jax.device_put(MATRICES, NamedSharding(grid, PartitionSpec(TASKS)))
        found = float(jax.jit(often)(spread))
        factors = jax.jit(jax.vmap(triangular_factor))(spread)
    np.testing.assert_allclose(found, jax.jit(often)(jnp.asarray(MATRICES)), atol=1e-5)
    expected = np.linalg.qr(MATRICES.astype(np.float64), mode="r")
    np.testing.assert_allclose(np.abs(factors), np.abs(expected), atol=1e-3)


def test_two_programs_on_one_device_wait_for_nobody():
    program = jax.jit(often).lower(jnp.asarray(MATRICES)).compile()
    found = []
    threads = [threading.Thread(target=lambda: found.append(float(program(MATRICES))), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 3


def test_a_program_on_several_devices_shares_no_lapack_out():
    grid = devices.mesh(2, tasks=20)
    with jax.set_mesh(grid):
        spread = jax.device_put(np.swapaxes(MATRICES, 1, 2) @ MATRICES, NamedSharding(grid, PartitionSpec(TASKS)))

        def cholesky(matrices):
            return jax.lax.fori_loop(0, 300, lambda _, x: jnp.linalg.cholesky(matrices + x).mean(), jnp.zeros(()))

        program = jax.jit(cholesky, compiler_options=devices.compiler_options())
        assert np.isfinite(float(program(spread)))
    assert devices.compiler_options() is None
