"""Multi-device execution in one program: seeds and tasks are sharded over a device mesh, θ is replicated.

The mesh is ambient: under ``with jax.set_mesh(mesh(tasks=40)):`` a jitted update shards its tasks over all devices, and
the compiler inserts the collectives, the sums over tasks. Without a mesh nothing here changes a program. Random numbers
depend on a task's index and not on its device, so the number of devices changes results only by rounding.
"""

import functools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from metarl_jax import checks
from metarl_jax.types import PyTree

SEEDS = "seeds"
"""mesh axis of independent runs, which need no communication"""
TASKS = "tasks"
"""mesh axis of a meta-iteration's tasks; gradients and metrics are averaged over it"""


def mesh(devices: int | None = None, *, tasks: int, seeds: int = 1) -> jax.sharding.Mesh:
    """A mesh with axes [SEEDS, TASKS] on which all devices have the same number of seeds and tasks.

    Devices are assigned to seeds first, since seeds need no communication; the remaining devices share the tasks.

    Args:
        devices: number of devices, taken from the start of ``jax.devices()``; None means all.
        tasks: B, tasks per meta-iteration.
        seeds: number of runs trained in parallel.

    Raises:
        ValueError: there are fewer devices, or seeds and tasks cannot be split evenly over them.
    """
    available = jax.devices()
    devices = len(available) if devices is None else checks.integer("devices", devices)
    tasks, seeds = checks.integer("tasks", tasks), checks.integer("seeds", seeds)
    if devices > len(available):
        raise ValueError(f"devices is {devices}, and there are {len(available)}; choose from 1 to {len(available)}")
    rows = math.gcd(devices, seeds)
    columns = devices // rows
    if tasks % columns:
        fit = [n for n in range(1, len(available) + 1) if tasks % (n // math.gcd(n, seeds)) == 0]
        below = tasks // columns * columns
        nearest = f"{below} or {below + columns}" if below else f"{columns}"
        raise ValueError(
            f"tasks is {tasks}, which {devices} devices cannot share evenly"
            + (f" beside seeds={seeds}" if seeds > 1 else "")
            + f"; the nearest tasks that they can: {nearest}; or choose devices from {', '.join(map(str, fit))}"
        )
    grid = np.array(available[:devices]).reshape(rows, columns)
    return jax.sharding.Mesh(grid, (SEEDS, TASKS), axis_types=(AxisType.Auto, AxisType.Auto))


def count(axis: str) -> int:
    """The number of devices along an axis of the ambient mesh; 1 without one."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


# Jitted, because outside jit JAX applies no constraint to arrays that are not on the mesh yet.
@functools.partial(jax.jit, static_argnames="spec", inline=True)
def _constrained(tree: PyTree, spec: PartitionSpec) -> PyTree:
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, spec), tree)


def check_chunk(task_chunk: int | None, shared_by: int) -> None:
    """Raises ValueError if `shared_by` devices cannot share the tasks of a chunk evenly."""
    if task_chunk is not None and task_chunk % shared_by:
        raise ValueError(
            f"task_chunk is {task_chunk}, which the {shared_by} devices that share the tasks cannot share evenly; "
            f"choose a multiple of {shared_by}, or fewer devices"
        )


def check_minibatches(minibatches: int, tasks: int, shared_by: int) -> None:
    """Raises ValueError if `shared_by` devices cannot share the tasks of a minibatch evenly."""
    if tasks // minibatches % shared_by:
        fit = [number for number in range(1, tasks + 1) if tasks % (number * shared_by) == 0]
        choice = f"minibatches from {', '.join(map(str, fit))}, or fewer devices" if fit else "fewer devices"
        raise ValueError(
            f"minibatches is {minibatches}, of {tasks // minibatches} tasks each, which the {shared_by} devices that "
            f"share the tasks cannot share evenly; choose {choice}"
        )


def split(tree: PyTree, axis: str) -> PyTree:
    """The same tree with the leading axis of each leaf sharded over an axis of the ambient mesh.

    In a vmap over seeds, ``jax.vmap(..., spmd_axis_name=SEEDS)``, the mapped axis is sharded over SEEDS as well.

    Raises:
        ValueError: the devices cannot share a leading axis evenly.
    """
    if axis not in jax.sharding.get_abstract_mesh().shape:
        return tree
    devices = count(axis)
    for size in sorted({leaf.shape[0] for leaf in jax.tree.leaves(tree)}):
        if size % devices:
            raise ValueError(
                f"{size} {axis} cannot be shared evenly by the {devices} devices that the mesh has for them; "
                f"make the mesh by metarl_jax.devices.mesh with {axis}={size}, which says what fits"
            )
    return _constrained(tree, PartitionSpec(axis))


def replicated(tree: PyTree) -> PyTree:
    """The same tree, replicated on the ambient mesh; in a vmap over seeds, on all devices of the seed."""
    return tree if jax.sharding.get_abstract_mesh().empty else _constrained(tree, PartitionSpec())


def by_share(function: Callable[[PyTree], PyTree], batch: PyTree, axis: str) -> PyTree:
    """Applies `function` to each device's share of a batch, so that a loop over rows runs over local rows only.

    Args:
        function: maps a batch with leaves [n, ...] to results [n, ...] row by row, for any n.
        batch: leaves [d·n, ...], with d devices along the axis.
        axis: an axis of the ambient mesh.

    Returns:
        Leaves [d·n, ...], in the order of the batch.

    Raises:
        ValueError: the devices cannot share the batch evenly.
    """
    devices = count(axis)
    if devices == 1:
        return function(batch)
    shares = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), split(batch, axis))
    results = split(jax.vmap(function, spmd_axis_name=axis)(split(shares, axis)), axis)
    return split(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results), axis)
