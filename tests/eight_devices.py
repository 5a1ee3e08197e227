"""What a process with eight devices computes. JAX asks for their number as it starts, so test_devices.py runs this."""

import contextlib
import functools
import math
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import devices, outer, training
from metarl_jax.compose import build_parts
from metarl_jax.devices import SEEDS, TASKS

HORIZON = 7
SIZES = {"tasks": 16, "episodes": 3, "horizon": HORIZON, "policy": {"hidden": (8, 8)}}
ROOTS = jax.random.split(jax.random.key(1), 2)


ENV = mrl.envs.make("point-nav")


def make(name, **options):
    return mrl.algorithms.make(name, ENV, **(SIZES | options))


def on(number, seeds=1):
    """The context of so many devices; 0: no mesh."""
    if not number:
        return contextlib.nullcontext()
    return jax.set_mesh(devices.mesh(number, tasks=SIZES["tasks"], seeds=seeds))


def assert_close(left, right, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **({"rtol": 1e-4, "atol": 1e-5} | tolerance)), left, right
    )


# --- the mesh --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"tasks": 8}, (1, 8)),
        ({"devices": 4, "tasks": 20}, (1, 4)),
        ({"devices": 1, "tasks": 7}, (1, 1)),
        ({"tasks": 1, "seeds": 8}, (8, 1)),
        ({"tasks": 40, "seeds": 2}, (2, 4)),
        ({"tasks": 40, "seeds": 5}, (1, 8)),
        ({"tasks": 4, "seeds": 6}, (2, 4)),
        ({"devices": 6, "tasks": 10, "seeds": 3}, (3, 2)),
    ],
)
def test_seeds_come_first(sizes, shape):
    grid = devices.mesh(**sizes)
    assert (grid.axis_names, grid.devices.shape) == ((SEEDS, TASKS), shape)
    assert list(grid.devices.flat) == jax.devices()[: shape[0] * shape[1]]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"devices": 9, "tasks": 9}, "devices is 9, and there are 8; choose from 1 to 8"),
        ({"devices": 0, "tasks": 8}, "devices is 0; it must be an integer of at least 1"),
        ({"devices": 2.0, "tasks": 8}, "devices is 2.0; it must be an integer"),
        ({"tasks": 0}, "tasks is 0; it must be an integer of at least 1"),
        ({"tasks": 8, "seeds": -1}, "seeds is -1; it must be an integer of at least 1"),
        ({"tasks": 20}, "tasks is 20, which 8 devices .* evenly; .*: 16 or 24; or choose devices from 1, 2, 4, 5$"),
        ({"tasks": 5}, "tasks is 5, which 8 devices .* evenly; .*: 8; or choose devices from 1, 5$"),
        ({"devices": 3, "tasks": 20}, "tasks is 20, which 3 devices .*: 18 or 21; or choose devices from 1, 2, 4, 5$"),
        ({"tasks": 6, "seeds": 2}, "tasks is 6, .* beside seeds=2; .*: 4 or 8; or choose devices from 1, 2, 3, 4, 6$"),
    ],
)
def test_sizes_that_do_not_divide(sizes, message):
    with pytest.raises(ValueError, match=message):
        devices.mesh(**sizes)


def test_what_is_split_and_what_is_whole():
    rows, keys = jnp.arange(16.0), jax.random.split(jax.random.key(0), 16)
    with on(8, seeds=2):
        assert (devices.count(SEEDS), devices.count(TASKS)) == (2, 4)
        tree = devices.split({"rows": rows, "keys": keys}, TASKS)
        assert {leaf.sharding.shard_shape(leaf.shape) for leaf in jax.tree.leaves(tree)} == {(4,)}
        assert jax.tree.map(lambda leaf: leaf.sharding.is_fully_replicated, devices.replicated(tree)) == {
            "rows": True,
            "keys": True,
        }
        of_seeds = jax.jit(jax.vmap(lambda leaf: devices.split(leaf, TASKS), spmd_axis_name=SEEDS))
        assert of_seeds(jnp.ones((2, 16, 3))).sharding.shard_shape((2, 16, 3)) == (1, 4, 3)
        with pytest.raises(ValueError, match="6 tasks cannot be shared evenly by the 4 devices"):
            devices.split(jnp.ones(6), TASKS)
    assert devices.count(TASKS) == 1
    assert devices.split(rows, TASKS) is devices.replicated(rows) is rows


def test_a_loop_over_shares_keeps_the_order():
    rows = jnp.arange(16.0)
    with on(8):
        doubled = jax.jit(lambda rows: devices.by_share(lambda share: jax.lax.map(lambda x: 2 * x, share), rows, TASKS))
        np.testing.assert_array_equal(doubled(rows), 2 * rows)


def test_a_chunk_is_shared_evenly_too():
    algorithm = make("maml", task_chunk=12)
    with on(8), pytest.raises(ValueError, match="task_chunk is 12, which the 8 devices .* choose a multiple of 8"):
        jax.eval_shape(algorithm.update, ROOTS[0], jax.eval_shape(algorithm.init, ROOTS[0]))


# --- the same numbers ------------------------------------------------------------------------------------------------


UPDATES = 20


def updates(algorithm):
    """``key → θ, every update's metrics``"""

    def run(key):
        def step(state, i):
            return devices.replicated(algorithm.update(jax.random.fold_in(key, i), state))

        state, metrics = jax.lax.scan(step, algorithm.init(key), jnp.arange(UPDATES))
        return state.params, metrics

    return run


@functools.cache
def alone(name):
    return jax.jit(updates(make(name)))


@functools.cache
def compiled(name, number):
    with on(number):
        return jax.jit(updates(make(name))).lower(ROOTS[0]).compile()


ONE_ALGORITHM = [pytest.param("maml"), pytest.param("promp", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", ONE_ALGORITHM)
@pytest.mark.parametrize("number", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4)), 8])
def test_the_number_of_devices_does_not_matter(name, number):
    theta, metrics = compiled(name, number)(ROOTS[0])
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(theta)} == {number}
    assert_close(jax.device_get((theta, metrics)), alone(name)(ROOTS[0]))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"task_chunk": 8}, {"task_chunk": 12}, {"task_chunk": 4, "remat": True}])
def test_nor_does_it_with_tasks_in_chunks(options):
    with on(4):
        program = jax.jit(updates(make("maml", **options))).lower(ROOTS[0]).compile()
    assert_close(jax.device_get(program(ROOTS[0])), alone("maml")(ROOTS[0]))
    # The gradient is summed once per chunk; no data move between the devices that go through the chunks together.
    found = collectives(program.as_text())
    assert {kind for kind, _, _ in found} == {"all-reduce"}
    assert {loops for _, _, loops in found} <= {(UPDATES,), (UPDATES, SIZES["tasks"] // options["task_chunk"])}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"task_chunk": 8}])
def test_seeds_and_tasks_on_a_grid_are_each_seed_alone(options):
    run = jax.vmap(updates(make("maml", **options)), spmd_axis_name=SEEDS)
    with on(8, seeds=2):
        both = jax.jit(lambda keys: devices.split(run(devices.split(keys, SEEDS)), SEEDS))(ROOTS)
    assert {leaf.sharding.shard_shape(leaf.shape)[0] for leaf in jax.tree.leaves(both)} == {1}
    for seed, root in enumerate(ROOTS):
        assert_close(jax.tree.map(lambda leaf, i=seed: leaf[i], jax.device_get(both)), alone("maml")(root))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"task_chunk": 8}])
def test_draws_do_not_depend_on_the_devices(options):
    parts = build_parts(mrl.envs.reveal_task(ENV), objective=outer.ratio(), **(SIZES | options))
    theta = parts.adapter.init_meta(jax.random.key(0))
    seen = []
    for number in (0, 8):
        with on(number):
            data = jax.jit(lambda key: outer.collect_tasks(key, parts, theta))(ROOTS[0])
        seen.append(jax.device_get(data.trajectory.observation[..., 0, :]))  # where it starts, and the task
    np.testing.assert_array_equal(*seen)
    assert len(np.unique(seen[0][:, 0, 0], axis=0)) == SIZES["tasks"]


# --- what crosses devices --------------------------------------------------------------------------------------------

KINDS = "all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter"


def collectives(text):
    """(kind, shapes, trip counts of the loops around it) of every collective in the text of a compiled program."""
    found, callers, here = [], {}, ""
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            here = head[1]
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        loop = [int(trips[1]) if trips else None] if " while(" in line else []
        called = re.findall(r"(?:body|condition|to_apply|calls|_computation)=%?([\w.-]+)", line)
        for several in re.findall(r"_computations=\{(.*?)\}", line):
            called += several.replace("%", "").split(", ")
        for name in called:
            callers.setdefault(name, []).append((here, loop))
        if match := re.search(rf"= (.*?) ({KINDS})(?:-start)?\(", line):
            found.append((match[2], re.findall(r"\w+\[[\d,]*\]", match[1]), here))

    def loops(name):
        outside = [(*loops(caller), *loop) for caller, loop in callers.get(name, [])]
        return max(outside, key=len, default=())

    return [(kind, shapes, loops(name)) for kind, shapes, name in found]


def test_a_collective_inside_loops_is_seen():
    def average(total, _):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x - devices.replicated(x.mean(0))), total), None

    with on(8):
        program = jax.jit(lambda rows: jax.lax.scan(average, devices.split(rows, TASKS), None, 6)[0])
        text = program.lower(jnp.ones((16, 5))).compile().as_text()
    assert collectives(text) == [("all-reduce", ["f32[5]"], (6, 3))]


def shape_of(leaf):
    return f"f32[{','.join(map(str, leaf.shape))}]"


def test_maml_sums_its_gradient_once_and_nothing_inside_a_rollout():
    program = compiled("maml", 8)
    found = collectives(program.as_text())
    # The sums: floats, the gradient and the loss among them, and counts; ratio_max, ratio_min; "all episodes void" of
    # a stage, twice.
    assert {kind for kind, _, _ in found} == {"all-reduce"}
    assert {loops for _, _, loops in found} == {(UPDATES,)}
    assert len(found) <= 6
    theta = {shape_of(leaf) for leaf in jax.tree.leaves(jax.eval_shape(make("maml").init, ROOTS[0]).params)}
    assert sum(theta <= set(shapes) for _, shapes, _ in found) == 1
    # The work is shared, not repeated: a device holds and does about an eighth of it.
    whole = alone("maml").lower(ROOTS[0]).compile()
    assert program.cost_analysis()["flops"] < 0.2 * whole.cost_analysis()["flops"]


LOOPS = {  # where else than once per update sums over tasks must stand
    "anil": {(2,)},  # once per inner step: the gradient of what no step moves, or what all steps share
    "cavia": {(2,)},
    "maml-trpo": {(10,), (None,)},  # conjugate gradients; the line search
    "meta-curvature": {(2,)},
    "meta-sgd": {(2,)},
    "promp": {(5,)},  # epochs
}


@pytest.mark.slow
@pytest.mark.parametrize("name", mrl.algorithms.names())
def test_one_update_of_every_algorithm(name):
    # In float64, since the conjugate gradients of maml-trpo magnify rounding, here from 1e-16 to 1e-5.
    with jax.enable_x64():
        algorithm = make(name, adaptation_steps=2)
        state = algorithm.init(ROOTS[0])
        with on(8):
            program = jax.jit(algorithm.update).lower(ROOTS[0], devices.replicated(state)).compile()
            spread = jax.device_get(program(ROOTS[0], devices.replicated(state)))
        assert_close(spread, jax.device_get(jax.jit(algorithm.update)(ROOTS[0], state)), rtol=1e-4, atol=1e-7)
    assert "lapack" not in program.as_text()  # a batched call waits for threads that another device has
    found = collectives(program.as_text())
    assert found
    assert {loops for _, _, loops in found} - {()} <= LOOPS.get(name, set())
    # What is gathered is a number or two per task and stage, for comparisons between tasks, and never a trajectory.
    gathered = [shape for kind, shapes, _ in found if kind != "all-reduce" for shape in shapes]
    sizes = [math.prod(int(size) for size in re.findall(r"\d+", shape.partition("[")[2])) for shape in gathered]
    assert max(sizes, default=0) <= SIZES["tasks"] * 3


@pytest.mark.slow
def test_one_brax_meta_gradient_on_equal_data():
    sizes = {"tasks": 8, "episodes": 2, "horizon": 5, "policy": {"hidden": (8, 8)}}
    env = mrl.envs.make("reacher-goal", backend="spring")
    parts = build_parts(env, objective=outer.ratio(), **sizes)
    theta = parts.adapter.init_meta(jax.random.key(0))
    data = jax.device_get(jax.jit(lambda key, theta: outer.collect_tasks(key, parts, theta))(ROOTS[0], theta))
    results = []
    for number in (1, 8):
        with jax.set_mesh(devices.mesh(number, tasks=8)):
            gradient = jax.jit(jax.value_and_grad(outer.meta_objective(parts).loss, has_aux=True))
            results.append(jax.device_get(gradient(theta, data)))
    assert_close(*results)
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(results[0][1]))


REPLAY = mrl.curriculum.prioritized(ENV.sample_task, lambda returns: returns[:, -1], tasks=16, capacity=40)
AROUND = {"normalize_observations": True, "normalize_rewards": True, "task_sampler": REPLAY}


@pytest.mark.parametrize(
    ("seeds", "options"), [*(pytest.param(n, {}, marks=pytest.mark.slow) for n in (1, 2)), (2, AROUND)]
)
def test_training_on_many_devices_equals_one_device(seeds, options):
    """The program is compiled once: a state that came out of a chunk elsewhere than it went in would be refused."""
    algorithm = make("maml", **options)
    root = jax.random.key(5) if seeds == 1 else jax.random.split(jax.random.key(5), seeds)
    chunks = []
    with on(8, seeds):
        for chunk in training.train(algorithm, root, 6):
            # Chunks that communicate leave the devices to the caller between two yields.
            assert not any(thread.name.startswith("chunks") for thread in threading.enumerate())
            chunks.append(chunk)
    assert len(chunks) > 2
    alone = list(training.train(algorithm, root if seeds == 1 else root[1], 6))
    theta = chunks[-1].state.params
    assert_close(theta if seeds == 1 else jax.tree.map(lambda leaf: leaf[1], theta), alone[-1].state.params)
