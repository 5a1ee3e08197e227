"""From one task to B, all at once or chunk by chunk: the vmap over tasks stands only here."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax.base import MetaObjective
from metarl_jax.devices import TASKS, by_share, check_chunk, count, split
from metarl_jax.types import Metrics, PyTree

TaskLoss = Callable[[PyTree, PyTree], tuple[jax.Array, Metrics]]

CACHED_ROWS = 2048
"""Steps whose activations fit the cache of a CPU's core: at 64 units an array of them takes half a megabyte."""


class Memory(NamedTuple):
    """What the outer loop trades time for memory with; nothing here changes a number by more than rounding.

    The backward pass of J needs the activations of every inner step of the tasks of a chunk. With `remat` it holds
    those of one step, beside φ of every step, and computes each about twice.
    """

    remat: bool = False
    """recompute an inner step in the backward pass instead of storing its activations (`jax.checkpoint`)"""
    task_chunk: int | None = None
    """tasks at a time on all devices together, one chunk after the other; None: as many as suit the device"""
    rows: int | None = None
    """steps of a task that the policy is applied to at once, by which a CPU's chunks are chosen; None: all at once"""

    def checkpoint(self, step: Callable) -> Callable:
        """`step`, whose activations are recomputed where that was asked for."""
        return jax.checkpoint(step) if self.remat else step

    def over_tasks(self, function: Callable, batch: PyTree) -> PyTree:
        """`function` of every task of a batch with leaves [B, ...]; the results likewise.

        Batch and results are split over the devices of the ambient mesh; see `metarl_jax.devices`.

        Raises:
            ValueError: a chunk cannot be split evenly over the devices.
        """
        if self.task_chunk is None:
            return split(jax.vmap(function)(split(batch, TASKS)), TASKS)
        check_chunk(self.task_chunk, count(TASKS))
        size = self.task_chunk // count(TASKS)
        # Without the checkpoint a backward pass would keep what every chunk has computed.
        return by_share(lambda rows: jax.lax.map(jax.checkpoint(function), rows, batch_size=size), batch, TASKS)

    def mean_over_tasks(self, function: TaskLoss, kl: Callable | None = None) -> MetaObjective:
        """The outer loss that is the mean over tasks of ``function: (θ, data of a task) → (loss [], metrics)``.

        Its gradient is summed up chunk by chunk, so that a backward pass keeps what one chunk has computed. Without
        `task_chunk` a chunk is all tasks, and on a CPU as many as its caches hold.
        """

        def means(losses, metrics):
            return losses.mean(), {name: _of_all(name, values) for name, values in metrics.items()}

        def loss(theta, data):
            return means(*self.over_tasks(lambda of_task: function(theta, of_task), data))

        def gradient(theta, data):
            share = len(jax.tree.leaves(data)[0]) // count(TASKS)
            size = self._chunk(share)
            if size == share:
                return jax.value_and_grad(loss, has_aux=True)(theta, data)

            def summed(theta, chunk):
                if size == 1:  # a vmap of one would leave its axis in every product
                    told = function(theta, jax.tree.map(lambda leaf: leaf[0], chunk))
                    losses, metrics = jax.tree.map(lambda leaf: leaf[None], told)
                else:
                    losses, metrics = jax.vmap(lambda of_task: function(theta, of_task))(chunk)
                return losses.sum() / (share * count(TASKS)), (losses, metrics)

            def add(total, chunk):
                gradient, told = jax.grad(summed, has_aux=True)(theta, chunk)
                return jax.tree.map(jnp.add, total, gradient), told

            def of_share(rows):
                chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), rows)
                total, told = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, theta), chunks)
                told = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), told)
                return jax.tree.map(lambda leaf: leaf[None], total), told

            of_devices, told = by_share(of_share, data, TASKS)
            return means(*told), jax.tree.map(lambda leaf: leaf.sum(0), of_devices)

        return MetaObjective(loss, kl, gradient)

    def _chunk(self, share: int) -> int:
        """How many of the tasks of a device's share to take at a time: the most that divides it and is not too many."""
        if self.task_chunk is not None:
            most = self.task_chunk // count(TASKS)
        elif self.rows is not None and jax.default_backend() == "cpu":
            most = max(1, CACHED_ROWS // self.rows)
        else:
            most = share
        return max(size for size in range(1, share + 1) if share % size == 0 and size <= max(most, 1))


def _of_all(name: str, values: jax.Array) -> jax.Array:
    """A task's metric over tasks: the extreme where its name says so, else the mean."""
    return values.min(0) if name.endswith("_min") else values.max(0) if name.endswith("_max") else values.mean(0)
