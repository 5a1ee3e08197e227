"""What a process with four devices refuses, shares, and does not wait for; test_devices.py runs this."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console

import metarl_jax as mrl
from metarl_jax import devices
from metarl_jax.devices import TASKS
from metarl_jax.inner.least_squares import triangular_factor
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.config.options import AlgorithmConfig, PolicyConfig
from metarl_jax.runs.console.cli import UserError
from metarl_jax.runs.run import train_run
from metarl_jax.sharing import stacked
from metarl_jax.training import train

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


def lapack(program):
    """The calls of LAPACK or BLAS in a compiled program, each of which waits for threads if it has a batch."""
    return [line for line in program.as_text().splitlines() if re.search('custom_call_target="(lapack|blas)', line)]


@pytest.mark.parametrize("number", [2, 4])
def test_least_squares_that_devices_share_call_no_lapack(number):
    grid = devices.mesh(number, tasks=20)
    with jax.set_mesh(grid):
        spread = jax.device_put(MATRICES, NamedSharding(grid, PartitionSpec(TASKS)))
        program = jax.jit(jax.vmap(triangular_factor)).lower(spread).compile()
    expected = np.linalg.qr(MATRICES.astype(np.float64), mode="r")
    np.testing.assert_allclose(np.abs(program(spread)), np.abs(expected), atol=1e-3)
    assert not lapack(program)


@pytest.mark.parametrize("batch", [(20,), (4, 5)])
def test_on_one_device_they_call_it_for_one_matrix_at_a_time(batch):
    factor = triangular_factor
    for _ in batch:
        factor = jax.vmap(factor)
    program = jax.jit(factor).lower(MATRICES.reshape(*batch, 2000, 16)).compile()
    (call,) = lapack(program)
    assert 'num_batch_dims="0"' in call


def test_an_update_on_one_device_calls_it_for_no_batch():
    env = mrl.envs.make("point-nav")
    algorithm = mrl.algorithms.make("maml", env, tasks=4, episodes=5, horizon=5, policy={"hidden": (4,)})
    state = algorithm.init(jax.random.key(0))
    calls = lapack(jax.jit(algorithm.update).lower(jax.random.key(1), state).compile())
    assert calls
    assert all('num_batch_dims="0"' in call for call in calls)


@pytest.mark.parametrize("name", ["maml", "tmaml", "cavia"])
def test_an_update_that_devices_share_calls_no_lapack(name):
    env = mrl.envs.make("point-nav")
    algorithm = mrl.algorithms.make(name, env, tasks=4, episodes=3, horizon=5, policy={"hidden": (4,)})
    with jax.set_mesh(devices.mesh(4, tasks=4)):
        state = devices.replicated(algorithm.init(jax.random.key(0)))
        assert not lapack(jax.jit(algorithm.update).lower(jax.random.key(1), state).compile())


def test_devices_share_runs_with_numbers_of_their_own():
    env = mrl.envs.make("point-nav")
    sizes = {"tasks": 2, "episodes": 2, "horizon": 4, "policy": {"hidden": (4,)}}
    make = mrl.one_program(lambda inner_lr: mrl.algorithms.make("es-maml", env, inner_lr=inner_lr, **sizes))
    members, key = [make(inner_lr=rate) for rate in (0.1, 0.2, 0.4, 0.8)], jax.random.key(0)
    with jax.set_mesh(devices.mesh(4, tasks=2, seeds=4)):
        *_, together = train(stacked(members), jnp.stack([key] * 4), 2)
    for row, member in enumerate(members):
        *_, alone = train(member, key, 2)
        for name, values in alone.metrics.items():
            np.testing.assert_allclose(together.metrics[name][:, row], values, rtol=1e-3, atol=1e-5)


def test_devices_share_the_tasks_of_a_mixture():
    """A member with as many tasks as devices, and one with more, in chunks."""
    env = mrl.envs.make("point-nav")
    sizes = {"episodes": 2, "horizon": 4, "policy": {"hidden": (4,)}}
    members = {
        "few": mrl.algorithms.make("maml", env, tasks=4, **sizes),
        "chunks": mrl.algorithms.make("maml", env, tasks=16, task_chunk=4, **sizes),
    }
    mixture, key = mrl.algorithms.mixture(members), jax.random.key(0)
    state = mixture.init(key)
    alone = jax.jit(mixture.update)(key, state)
    with jax.set_mesh(devices.mesh(4, tasks=4)):
        together = jax.jit(mixture.update)(key, devices.replicated(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), together, alone)
