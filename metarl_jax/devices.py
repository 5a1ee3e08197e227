"""Many devices, one program: seeds and tasks are split over a mesh of devices, θ is the same on all of them.

The mesh is ambient: under ``with jax.set_mesh(mesh(tasks=40)):`` a jitted update spreads its tasks over all devices,
and the compiler adds what crosses devices, the sums over tasks. Without a mesh nothing here changes a program. Draws
belong to the number of a task and not to its place, so the number of devices changes a result by rounding only.
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
"""the mesh axis of independent runs, which never talk to each other"""
TASKS = "tasks"
"""the mesh axis of a meta-iteration's tasks, which meet where gradients and metrics are averaged over them"""


def mesh(devices: int | None = None, *, tasks: int, seeds: int = 1) -> jax.sharding.Mesh:
    """The devices as a grid, [SEEDS, TASKS], of which every device has equally many seeds and tasks.

    As many devices as can be have seeds of their own, since these need no communication; what is left is for tasks.

    Args:
        devices: how many, the first of ``jax.devices()``; None means all.
        tasks: B, tasks per meta-iteration.
        seeds: runs that are trained side by side.

    Raises:
        ValueError: there are not as many devices, or seeds and tasks cannot be split evenly over them.
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


# Jitted, because outside of a program JAX constrains nothing that is not on the mesh already.
@functools.partial(jax.jit, static_argnames="spec", inline=True)
def _constrained(tree: PyTree, spec: PartitionSpec) -> PyTree:
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, spec), tree)


def check_chunk(task_chunk: int | None, shared_by: int) -> None:
    """Raises ValueError where so many devices cannot share the tasks of a chunk evenly."""
    if task_chunk is not None and task_chunk % shared_by:
        raise ValueError(
            f"task_chunk is {task_chunk}, which the {shared_by} devices that share the tasks cannot share evenly; "
            f"choose a multiple of {shared_by}, or fewer devices"
        )


def check_minibatches(minibatches: int, tasks: int, shared_by: int) -> None:
    """Raises ValueError where so many devices cannot share the tasks of a minibatch evenly."""
    if tasks // minibatches % shared_by:
        fit = [number for number in range(1, tasks + 1) if tasks % (number * shared_by) == 0]
        choice = f"minibatches from {', '.join(map(str, fit))}, or fewer devices" if fit else "fewer devices"
        raise ValueError(
            f"minibatches is {minibatches}, of {tasks // minibatches} tasks each, which the {shared_by} devices that "
            f"share the tasks cannot share evenly; choose {choice}"
        )


def split(tree: PyTree, axis: str) -> PyTree:
    """The same tree, the leading axis of every leaf spread over an axis of the ambient mesh.

    In a vmap over seeds, ``jax.vmap(..., spmd_axis_name=SEEDS)``, the vmap's own axis is spread over SEEDS beside it.

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
    """The same tree, whole on every device of the ambient mesh; in a vmap over seeds, on every device of the seed."""
    return tree if jax.sharding.get_abstract_mesh().empty else _constrained(tree, PartitionSpec())


def by_share(function: Callable[[PyTree], PyTree], batch: PyTree, axis: str) -> PyTree:
    """`function` of every device's share of a batch, so that a loop over rows is one over the device's own rows.

    Args:
        function: of a batch with leaves [n, ...] of any size n, row by row; its results likewise.
        batch: leaves [d·n, ...], of d devices along the axis.
        axis: of the ambient mesh.

    Returns:
        Leaves [d·n, ...], in the batch's order.

    Raises:
        ValueError: the devices cannot share the batch evenly.
    """
    devices = count(axis)
    if devices == 1:
        return function(batch)
    shares = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), split(batch, axis))
    done = split(jax.vmap(function, spmd_axis_name=axis)(split(shares, axis)), axis)
    return split(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), done), axis)
