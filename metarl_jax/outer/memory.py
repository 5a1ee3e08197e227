"""The vmap over tasks: all B tasks at once, or in chunks that need less memory."""

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
"""Number of steps whose activations fit the cache of a CPU core: with 64 units an array takes half a megabyte."""


class Divergence(NamedTuple):
    """Distance of the policies of ONE task from those that collected its data, as a composition value(tell(θ)).

    `tell` maps θ to action distributions, `value` maps these to the distance. At the θ that collected the data, `value`
    is at its minimum with gradient 0, so the curvature in θ is exactly Jᵀ F J with J = ∂tell/∂θ and F = ∂²value.
    """

    tell: Callable[[PyTree, PyTree], PyTree]
    """``(θ, data of a task) → action distributions at its steps``, or parameters that determine them"""
    value: Callable[[PyTree, PyTree], jax.Array]
    """``(output of tell, data of the task) → distance [] in nats``"""


class Memory(NamedTuple):
    """Trade-offs between time and memory in the outer loop; they change results only by rounding.

    The conjugate gradients of a trust region amplify rounding where the KL is nearly flat, so θ can differ visibly.

    The backward pass of J needs the activations of all inner steps of the tasks in a chunk. With `remat` it stores
    those of one step and φ of all steps, and computes each step about twice.
    """

    remat: bool = False
    """recompute an inner step in the backward pass instead of storing its activations (`jax.checkpoint`)"""
    task_chunk: int | None = None
    """number of tasks processed at a time on all devices together; None: chosen for the device"""
    rows: int | None = None
    """number of steps per task that the policy processes at once, sets the chunk size on a CPU; None: one chunk"""

    def checkpoint(self, step: Callable) -> Callable:
        """`step`, with its activations recomputed in the backward pass if `remat` is set."""
        return jax.checkpoint(step) if self.remat else step

    def over_tasks(self, function: Callable, batch: PyTree) -> PyTree:
        """Maps `function` over the tasks of a batch with leaves [B, ...]; results have leaves [B, ...].

        Batch and results are sharded over the ambient mesh; see `metarl_jax.devices`.

        Raises:
            ValueError: a chunk cannot be split evenly over the devices.
        """
        if self.task_chunk is None:
            return split(jax.vmap(function)(split(batch, TASKS)), TASKS)
        check_chunk(self.task_chunk, count(TASKS))
        size = self.task_chunk // count(TASKS)
        # Without the checkpoint a backward pass would store the intermediate results of all chunks.
        return by_share(lambda rows: jax.lax.map(jax.checkpoint(function), rows, batch_size=size), batch, TASKS)

    def mean_over_tasks(self, function: TaskLoss, kl: Divergence | None = None) -> MetaObjective:
        """The outer loss: the mean over tasks of ``function: (θ, data of a task) → (loss [], metrics)``.

        Its gradient is summed over chunks, so that the backward pass stores the intermediate results of one chunk only.
        Without `task_chunk` a chunk is all tasks, or on a CPU as many as its caches hold.

        Args:
            function: the loss of one task.
            kl: the distance that a trust region bounds; None: not available.
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

            total, outputs = self._summed(of_chunk, data)
            return means(*outputs), total

        if kl is None:
            return MetaObjective(loss, None, gradient)

        def mean_kl(theta, data):
            return self._over_data(lambda of_task: kl.value(kl.tell(theta, of_task), of_task), data).mean()

        def curvature(theta, data):
            def products(over, rows):
                pi, pull = jax.vjp(lambda theta: over(lambda of_task: kl.tell(theta, of_task), rows), theta)
                # J as the transpose of Jᵀ, because a policy may define only a reverse-mode rule.
                push = jax.linear_transpose(pull, pi)
                distances = jax.grad(lambda pi: over(lambda pair: kl.value(*pair), (pi, rows)).sum() / _tasks(data))
                _, bend = jax.linearize(distances, pi)
                return lambda vector: pull(bend(push((vector,))[0]))[0]

            if self._whole(data):  # one linearisation for all products
                return products(self.over_tasks, data)
            return lambda vector: self._summed(lambda chunk: (products(_of_rows, chunk)(vector), ()), data)[0]

        return MetaObjective(loss, mean_kl, gradient, curvature)

    def _over_data(self, function: Callable, data: PyTree) -> PyTree:
        """`over_tasks` for collected data, in chunks chosen for the device unless `task_chunk` is set."""
        if self.task_chunk is not None or self._whole(data):
            return self.over_tasks(function, data)
        return self._summed(lambda chunk: ((), _of_rows(function, chunk)), data)[1]

    def _whole(self, data: PyTree) -> bool:
        """Whether one chunk contains all tasks of a device."""
        share = _tasks(data) // count(TASKS)
        return self._chunk(share) == share

    def _summed(self, function: Callable, data: PyTree) -> tuple[PyTree, PyTree]:
        """Of ``function: chunk → (tree, outputs)``: the sum of the trees over chunks, and the outputs [B, ...]."""
        size = self._chunk(_tasks(data) // count(TASKS))

        def of_share(rows):
            chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), rows)
            first = jax.tree.map(lambda leaf: leaf[0], chunks)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, first)[0])

            def add(total, chunk):
                part, outputs = function(chunk)
                return jax.tree.map(jnp.add, total, part), outputs

            # Unroll by two if chunks are small to fit the cache: two independent chunks keep two CPU cores busy.
            total, outputs = jax.lax.scan(add, zeros, chunks, unroll=2 if self.task_chunk is None else 1)
            outputs = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outputs)
            return jax.tree.map(lambda leaf: leaf[None], total), outputs

        of_devices, outputs = by_share(of_share, data, TASKS)
        return jax.tree.map(lambda leaf: leaf.sum(0), of_devices), outputs

    def _chunk(self, share: int) -> int:
        """Chunk size for a device's share of tasks: the largest divisor of `share` within the limit."""
        if self.task_chunk is not None:
            largest = self.task_chunk // count(TASKS)
        elif self.rows is not None and jax.default_backend() == "cpu":
            largest = max(1, CACHED_ROWS // self.rows)
        else:
            largest = share
        return max(size for size in range(1, share + 1) if share % size == 0 and size <= max(largest, 1))


def limited(function: TaskLoss, max_norm: float) -> TaskLoss:
    """`function` with the norm of its gradient in θ limited for ONE task.

    Clipping the mean gradient leaves its direction to the task with the largest gradient. Clipping per task prevents
    one task from dominating, at the cost of a bias towards tasks with small gradients. A task whose loss or gradient
    norm is not finite is dropped: it contributes 0 to loss, gradient and metrics, and is ignored in minima and maxima.
    The metrics `dropped_share` and `limited_share` are fractions of tasks. The gradient is computed once, in the
    forward pass, and stored per task, so only first-order reverse mode is supported.

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
        reported = {name: jnp.where(finite, value, nothing.get(name[-4:], 0)) for name, value in metrics.items()}
        shares = {"dropped_share": ~finite, "limited_share": finite & (norm > max_norm)}
        reported |= {name: value.astype(loss.dtype) for name, value in shares.items()}
        return (jnp.where(finite, loss, 0), reported), gradient

    def backward(gradient, bar):
        return jax.tree.map(lambda leaf: bar[0] * leaf, gradient), None  # no gradient for the data

    limited_loss.defvjp(forward, backward)
    return limited_loss


def _tasks(data: PyTree) -> int:
    return len(jax.tree.leaves(data)[0])


def _of_rows(function: Callable, rows: PyTree) -> PyTree:
    """Maps `function` over rows; a single row without vmap, whose axis of size 1 would remain in all products."""
    if _tasks(rows) > 1:
        return jax.vmap(function)(rows)
    return jax.tree.map(lambda leaf: leaf[None], function(jax.tree.map(lambda leaf: leaf[0], rows)))


def _of_all(name: str, values: jax.Array) -> jax.Array:
    """Reduces a metric over tasks: minimum for names with suffix "_min", maximum for "_max", else the mean."""
    return values.min(0) if name.endswith("_min") else values.max(0) if name.endswith("_max") else values.mean(0)
