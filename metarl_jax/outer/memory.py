"""From one task to B, all at once or chunk by chunk: the vmap over tasks stands only here."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from metarl_jax.base import MetaObjective
from metarl_jax.devices import TASKS, by_share, check_chunk, count, split
from metarl_jax.types import Metrics, PyTree

TaskLoss = Callable[[PyTree, PyTree], tuple[jax.Array, Metrics]]

CACHED_ROWS = 2048
"""Steps whose activations fit the cache of a CPU's core: at 64 units an array of them takes half a megabyte."""


class Divergence(NamedTuple):
    """How far the policies of ONE task have moved from those that collected its data, as a function of θ in two parts.

    Between them stand the distributions. At the data's own θ the second has its minimum there, where its gradient is 0,
    so that the whole's curvature in θ is Jᵀ F J exactly, with J = ∂tell/∂θ and F = ∂²value.
    """

    tell: Callable[[PyTree, PyTree], PyTree]
    """``(θ, data of a task) → what the policies say of its steps``"""
    value: Callable[[PyTree, PyTree], jax.Array]
    """``(what they say, data of the task) → [] in nats``"""


class Memory(NamedTuple):
    """What the outer loop trades time for memory with; nothing here changes a number by more than rounding.

    A trust region's conjugate gradients magnify rounding where the KL is nearly flat: there θ moves visibly.

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

    def mean_over_tasks(self, function: TaskLoss, kl: Divergence | None = None) -> MetaObjective:
        """The outer loss that is the mean over tasks of ``function: (θ, data of a task) → (loss [], metrics)``.

        Its gradient is summed up chunk by chunk, so that a backward pass keeps what one chunk has computed. Without
        `task_chunk` a chunk is all tasks, and on a CPU as many as its caches hold.

        Args:
            function: the loss of one task.
            kl: the distance that a trust region bounds; None: there is none.
        """

        def means(losses, metrics):
            return losses.mean(), {name: _of_all(name, values) for name, values in metrics.items()}

        def loss(theta, data):
            return means(*self._over_data(lambda of_task: function(theta, of_task), data))

        def gradient(theta, data):
            if self._whole(data):
                return jax.value_and_grad(loss, has_aux=True)(theta, data)
            tasks = _tasks(data)

            def of_chunk(chunk):
                def summed(theta):
                    losses, metrics = _of_rows(lambda of_task: function(theta, of_task), chunk)
                    return losses.sum() / tasks, (losses, metrics)

                return jax.grad(summed, has_aux=True)(theta)

            total, told = self._summed(of_chunk, data)
            return means(*told), total

        if kl is None:
            return MetaObjective(loss, None, gradient)

        def mean_kl(theta, data):
            return self._over_data(lambda of_task: kl.value(kl.tell(theta, of_task), of_task), data).mean()

        def curvature(theta, data):
            def products(over, rows):
                told, pull = jax.vjp(lambda theta: over(lambda of_task: kl.tell(theta, of_task), rows), theta)
                # J as the transpose of Jᵀ: a policy may say how it is differentiated in reverse alone.
                push = jax.linear_transpose(pull, told)
                distances = jax.grad(lambda told: over(lambda pair: kl.value(*pair), (told, rows)).sum() / _tasks(data))
                _, bend = jax.linearize(distances, told)
                return lambda vector: pull(bend(push((vector,))[0]))[0]

            if self._whole(data):  # one linearisation serves all products
                return products(self.over_tasks, data)
            return lambda vector: self._summed(lambda chunk: (products(_of_rows, chunk)(vector), ()), data)[0]

        return MetaObjective(loss, mean_kl, gradient, curvature)

    def _over_data(self, function: Callable, data: PyTree) -> PyTree:
        """`over_tasks` of collected data, by chunks that suit the device where nobody asked for others."""
        if self.task_chunk is not None or self._whole(data):
            return self.over_tasks(function, data)
        return self._summed(lambda chunk: ((), _of_rows(function, chunk)), data)[1]

    def _whole(self, data: PyTree) -> bool:
        """Whether a chunk is all of a device's tasks."""
        share = _tasks(data) // count(TASKS)
        return self._chunk(share) == share

    def _summed(self, function: Callable, data: PyTree) -> tuple[PyTree, PyTree]:
        """``function: chunk → (a tree to be summed up, what it tells of its tasks)``; all that is told, [B, ...]."""
        size = self._chunk(_tasks(data) // count(TASKS))

        def of_share(rows):
            chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), rows)
            first = jax.tree.map(lambda leaf: leaf[0], chunks)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, first)[0])

            def add(total, chunk):
                part, told = function(chunk)
                return jax.tree.map(jnp.add, total, part), told

            # Two at a time where chunks are small for the cache's sake: their products keep two of a CPU's cores busy.
            total, told = jax.lax.scan(add, zeros, chunks, unroll=2 if self.task_chunk is None else 1)
            told = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), told)
            return jax.tree.map(lambda leaf: leaf[None], total), told

        of_devices, told = by_share(of_share, data, TASKS)
        return jax.tree.map(lambda leaf: leaf.sum(0), of_devices), told

    def _chunk(self, share: int) -> int:
        """How many of the tasks of a device's share to take at a time: the most that divides it and is not too many."""
        if self.task_chunk is not None:
            most = self.task_chunk // count(TASKS)
        elif self.rows is not None and jax.default_backend() == "cpu":
            most = max(1, CACHED_ROWS // self.rows)
        else:
            most = share
        return max(size for size in range(1, share + 1) if share % size == 0 and size <= max(most, 1))


def limited(function: TaskLoss, max_norm: float) -> TaskLoss:
    """`function` with a gradient in θ of at most this norm for ONE task.

    A gradient that is clipped as a whole points where its longest part does. Limited one by one, no task outweighs the
    others; the price is a bias towards tasks with short gradients. A task whose loss or gradient's norm is not finite
    is dropped: it adds 0 to loss, gradient and metrics, and nothing to a metric that is an extreme. `dropped_share` and
    `limited_share` of the tasks are metrics. It takes gradients in reverse, once, and holds one for every task.

    Args:
        function: ``(θ, data of a task) → (loss [], metrics)``.
        max_norm: > 0.
    """
    nothing = {"_min": jnp.inf, "_max": -jnp.inf}

    @jax.custom_vjp
    def limited_loss(theta, data):
        return forward(theta, data)[0]

    def forward(theta, data):
        (loss, metrics), gradient = jax.value_and_grad(function, has_aux=True)(theta, data)
        norm = optax.tree.norm(gradient)
        finite, scale = jnp.isfinite(loss) & jnp.isfinite(norm), jnp.minimum(1, max_norm / norm)
        gradient = jax.tree.map(lambda leaf: jnp.where(finite, scale * leaf, 0), gradient)
        kept = {name: jnp.where(finite, value, nothing.get(name[-4:], 0)) for name, value in metrics.items()}
        shares = {"dropped_share": ~finite, "limited_share": finite & (norm > max_norm)}
        kept |= {name: value.astype(loss.dtype) for name, value in shares.items()}
        return (jnp.where(finite, loss, 0), kept), gradient

    def backward(gradient, bar):
        return jax.tree.map(lambda leaf: bar[0] * leaf, gradient), None  # the data are fixed

    limited_loss.defvjp(forward, backward)
    return limited_loss


def _tasks(data: PyTree) -> int:
    return len(jax.tree.leaves(data)[0])


def _of_rows(function: Callable, rows: PyTree) -> PyTree:
    """`function` of every row; of a single one without a vmap, whose axis of one would stay in every product."""
    if _tasks(rows) > 1:
        return jax.vmap(function)(rows)
    return jax.tree.map(lambda leaf: leaf[None], function(jax.tree.map(lambda leaf: leaf[0], rows)))


def _of_all(name: str, values: jax.Array) -> jax.Array:
    """A task's metric over tasks: the extreme where its name says so, else the mean."""
    return values.min(0) if name.endswith("_min") else values.max(0) if name.endswith("_max") else values.mean(0)
