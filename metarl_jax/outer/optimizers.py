"""Outer optimisers: updates of θ on fixed data, which allows several steps or a line search."""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from metarl_jax import checks
from metarl_jax.base import MetaObjective, OuterOptimizer, Trial
from metarl_jax.types import Metrics, Number, PyTree

OuterRate: TypeAlias = float | optax.Schedule
"""The outer rate, or a schedule: a function of the number of outer steps taken so far."""

DEFAULT_RATE = 1e-3


def descent(
    *,
    outer_lr: OuterRate = DEFAULT_RATE,
    outer_optimizer: optax.GradientTransformation | None = None,
    max_gradient_norm: float | None = None,
) -> optax.GradientTransformation:
    """The gradient transformation for θ: Adam with a rate or a schedule, or any optax optimiser.

    Args:
        outer_lr: Adam's rate, > 0, or a schedule. A schedule counts outer steps: epochs × minibatches per
            meta-iteration, or one if the algorithm has neither. The current rate is then a metric.
        outer_optimizer: replaces Adam; it has its own rate, so do not set `outer_lr`.
        max_gradient_norm: gradients with a larger norm are scaled down to this norm first; None: no clipping.

    Raises:
        ValueError: an argument is out of range, or both a rate and an optimiser are given.
    """
    if outer_optimizer is None:
        if callable(outer_lr):
            checks.non_negative("outer_lr at step 0", checks.schedule("outer_lr", outer_lr))  # a warm-up starts at 0
            step = optax.inject_hyperparams(optax.adam)(learning_rate=outer_lr)
        else:
            if isinstance(outer_lr, jax.Array | np.ndarray) and not outer_lr.ndim and not checks.traced(outer_lr):
                outer_lr = outer_lr.item()
            step = optax.adam(checks.positive("outer_lr", outer_lr))
    elif not isinstance(outer_optimizer, optax.GradientTransformation):
        raise ValueError(
            f"outer_optimizer is {outer_optimizer!r}; it must be an optax.GradientTransformation, such as "
            "optax.adamw(1e-3)"
        )
    elif callable(outer_lr) or checks.traced(outer_lr) or outer_lr != DEFAULT_RATE:
        raise ValueError(f"outer_lr is {outer_lr!r}, and outer_optimizer brings its own rate; leave one of them out")
    else:
        step = outer_optimizer
    if max_gradient_norm is None:
        return step
    return optax.chain(optax.clip_by_global_norm(checks.positive("max_gradient_norm", max_gradient_norm)), step)


def rate_of(opt_state: PyTree) -> Metrics:
    """The current rate as a metric, if the state contains it (a schedule, or `optax.inject_hyperparams`)."""
    # θ itself may contain leaves named learning_rate, so look only inside `hyperparams`.
    injected = [values for _, values in optax.tree.get_all_with_path(opt_state, "hyperparams")]
    rates = [values["learning_rate"] for values in injected if "learning_rate" in values]
    return {"outer_lr": rates[0]} if len(rates) == 1 else {}


def _every(minibatches: int, leaf: jax.Array) -> jax.Array:
    """Reshapes [B, ...] to [minibatches, B / minibatches, ...]; minibatch m has tasks m, m + minibatches and so on."""
    if len(leaf) % minibatches:
        raise ValueError(f"minibatches is {minibatches}, which must divide the {len(leaf)} tasks")
    return jnp.swapaxes(leaf.reshape(-1, minibatches, *leaf.shape[1:]), 0, 1)


def check_minibatches(minibatches: int, tasks: int) -> None:
    """Raises ValueError if a number is none, or the tasks cannot be split evenly into `minibatches`."""
    if checks.integer("tasks", tasks) % checks.integer("minibatches", minibatches):
        raise ValueError(f"minibatches is {minibatches}; it must divide the {tasks} tasks")


def gradient_steps(
    transformation: optax.GradientTransformation, epochs: int = 1, minibatches: int = 1
) -> OuterOptimizer:
    """`epochs` passes of an optax optimiser over the meta-loss, in steps of B / `minibatches` tasks each.

    A minibatch is every `minibatches`-th task, the same in all passes. Tasks are drawn independently in each
    meta-iteration, so shuffling is not needed; where they are drawn together, `TaskEnv.sample_tasks` has to do it. The
    metrics are those of the last step, before its update.

    Args:
        transformation: a minimiser such as ``optax.adam(1e-3)``.
        epochs: passes per meta-iteration; with more than one, the objective should limit the ratio.
        minibatches: steps per pass; it must divide the number of tasks.

    Raises:
        ValueError: a number is not a positive integer, or the tasks cannot be shared evenly.
    """
    epochs, minibatches = checks.integer("epochs", epochs), checks.integer("minibatches", minibatches)

    @jax.named_scope("outer")
    def update(meta_objective: MetaObjective, theta, opt_state, data):
        def step(carry, part):
            theta, opt_state = carry
            (loss, metrics), gradient = meta_objective.value_and_gradient(theta, part)
            steps, opt_state = transformation.update(gradient, opt_state, theta)
            metrics = metrics | {"loss": loss, "meta_gradient_norm": optax.tree.norm(gradient)} | rate_of(opt_state)
            return (optax.apply_updates(theta, steps), opt_state), metrics

        def epoch(carry, _):
            if minibatches == 1:
                return step(carry, data)
            carry, metrics = jax.lax.scan(step, carry, parts)
            return carry, jax.tree.map(lambda values: values[-1], metrics)

        parts = jax.tree.map(lambda leaf: _every(minibatches, leaf), data)
        (theta, opt_state), metrics = jax.lax.scan(epoch, (theta, opt_state), None, length=epochs)
        return theta, opt_state, jax.tree.map(lambda values: values[-1], metrics)

    return OuterOptimizer(transformation.init, update)


def adaptive_penalty(steps: OuterOptimizer, weight: Number, target: float) -> OuterOptimizer:
    """Wraps `steps` to adapt the weight η of `inner_kl` so that the KL stays near a target.

    After each meta-iteration η is doubled if the KL at the new θ, a mean over the steps taken, is above 1.5 δ, and
    halved if it is below δ / 1.5, within a factor of 1024 of its initial value. Schulman et al. (2017,
    arXiv:1707.06347, section 4), here applied to the KL of the inner policies.

    Args:
        steps: the optimiser of θ for a fixed η.
        weight: η > 0 of the first meta-iteration.
        target: δ > 0, in nats.

    Raises:
        ValueError: an argument is not positive.
    """
    weight, target = checks.positive("inner_kl_weight", weight), checks.positive("inner_kl_target", target)

    def init(theta):
        return steps.init(theta), jnp.asarray(weight, float)

    def update(meta_objective: MetaObjective, theta, opt_state, data):
        inner_state, eta = opt_state
        data = dataclasses.replace(data, penalty=jnp.full(data.credit.shape[:2], eta))
        theta, inner_state, metrics = steps.update(meta_objective, theta, inner_state, data)
        kl = meta_objective.loss(theta, data)[1]["inner_kl_of_steps"]
        factor = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
        next_eta = jnp.clip(eta * factor, weight / 1024, weight * 1024)
        return theta, (inner_state, next_eta), metrics | {"inner_kl_of_steps": kl, "inner_kl_weight": eta}

    return OuterOptimizer(init, update)


def check_annealing(iterations: int | None, trial: Trial, credit: bool | float = False) -> None:
    """Raises ValueError if `annealed_stages` does not apply: with one counted stage, or with `credit`."""
    if iterations is None:
        return
    checks.integer("multi_step_iterations", iterations)
    if trial.first_counted == trial.adaptation_steps:
        raise ValueError(
            f"multi_step_iterations is {iterations}, and with burn_in={trial.first_counted} only the last stage "
            "counts; let more of them count, such as by burn_in=0, or leave multi_step_iterations out"
        )
    if credit:
        raise ValueError(
            "multi_step_iterations changes what a stage counts, which credit does not follow; leave one of them out"
        )


def annealed_stages(steps: OuterOptimizer, trial: Trial, iterations: int) -> OuterOptimizer:
    """`steps` on Σ_s v_s L_s over the counted stages K … L, with weights that move to the last stage.

    v_s = ρ / C for s < L and v_L = 1 − (C − 1) ρ / C, where ρ = max(0, 1 − i / n) in meta-iteration i, n is
    `iterations` and C = L − K + 1. So training starts with the mean over counted stages and ends with the last stage. ρ
    is the metric `multi_step`. This is MAML++'s multi-step loss: Antoniou, Edwards, Storkey (2019, arXiv:1810.09502).

    The weights are stored in the data, `metarl_jax.types.Stage.weight`. Objectives and the KL of a trust region read
    them there, and user-defined objectives have to do the same. `gradient` of an algorithm always uses equal weights.

    Args:
        steps: the optimiser of θ for fixed weights.
        trial: defines the counted stages.
        iterations: n > 0.
    """
    before = jnp.arange(trial.stages) < trial.adaptation_steps
    counted = trial.stages - trial.first_counted

    def init(theta):
        return steps.init(theta), jnp.zeros((), jnp.int32)

    def update(meta_objective: MetaObjective, theta, opt_state, data):
        inner_state, iteration = opt_state
        rho = jnp.maximum(0.0, 1 - iteration / iterations)
        weight = jnp.where(before, rho / counted, 1 - (counted - 1) * rho / counted)
        data = dataclasses.replace(data, weight=jnp.broadcast_to(weight, data.credit.shape[:2]))
        theta, inner_state, metrics = steps.update(meta_objective, theta, inner_state, data)
        return theta, (inner_state, iteration + 1), metrics | {"multi_step": rho}

    return OuterOptimizer(init, update, steps.needs_kl)


def conjugate_gradient(product, b: jax.Array, iterations: int) -> jax.Array:
    """Solves A x = b for a symmetric positive A given by ``product(v) = A v``; x stays constant once solved.

    jax.scipy.sparse.linalg.cg is not used, because it iterates to a tolerance, whereas TRPO uses a small fixed number
    of iterations.
    """

    def step(_, carry):
        x, residual, direction, energy = carry
        image = product(direction)
        # At an exact solution both products vanish; the step is then 0 rather than 0/0.
        curvature = direction @ image
        length = jnp.where(curvature > 0, energy / jnp.where(curvature > 0, curvature, 1), 0)
        x, residual = x + length * direction, residual - length * image
        next_energy = residual @ residual
        momentum = jnp.where(energy > 0, next_energy / jnp.where(energy > 0, energy, 1), 0)
        return x, residual, residual + momentum * direction, next_energy

    return jax.lax.fori_loop(0, iterations, step, (jnp.zeros_like(b), b, b, b @ b))[0]


def trust_region(
    max_kl: float = 0.01, damping: float = 1e-5, cg_iterations: int = 10, backtracks: int = 15, shrink: float = 0.8
) -> OuterOptimizer:
    """TRPO on the meta-loss: min loss(θ) subject to E KL(behaviour ‖ π_φ(θ)) ≤ δ.

    Schulman et al. (2015, arXiv:1502.05477).

    x ≈ (H + damping·I)⁻¹ g by conjugate gradients, with H = ∇²KL exact and THROUGH the adaptation. The full step
    √(2δ / xᵀHx)·x is shrunk until the KL constraint holds and the loss improves; if this fails, θ is unchanged.

    H v is the objective's `kl_curvature` v, which is valid at the θ that collected the data, where an outer step
    starts; without `kl_curvature` it is ∇⟨∇KL, v⟩.

    Args:
        max_kl: δ, in nats.
        damping: added to the diagonal of H.
        cg_iterations: conjugate-gradient iterations.
        backtracks: maximum number of steps of the line search.
        shrink: factor between consecutive line-search steps, in (0, 1).

    Raises:
        ValueError: an argument is out of range.
    """
    max_kl, damping = checks.positive("max_kl", max_kl), checks.non_negative("damping", damping)
    cg_iterations = checks.integer("cg_iterations", cg_iterations)
    backtracks = checks.integer("backtracks", backtracks)
    if not 0 < checks.finite("shrink", shrink) < 1:
        raise ValueError(f"shrink is {shrink!r}; it must lie between 0 and 1, both excluded")

    @jax.named_scope("outer")
    def update(meta_objective: MetaObjective, theta, opt_state, data):
        start, unravel = ravel_pytree(theta)
        kl_of = meta_objective.kl
        if kl_of is None:
            raise ValueError("a trust region needs an objective with a KL; choose an algorithm with gradient steps")

        def loss_at(flat):
            return meta_objective.loss(unravel(flat), data)

        def kl_at(flat):
            return kl_of(unravel(flat), data)

        (loss, metrics), gradient = meta_objective.value_and_gradient(theta, data)
        gradient, _ = ravel_pytree(gradient)
        if meta_objective.kl_curvature is None:
            _, hessian_product = jax.linearize(lambda theta: jax.grad(kl_of)(theta, data), theta)
        else:
            hessian_product = meta_objective.kl_curvature(theta, data)

        def product(vector):
            image, _ = ravel_pytree(hessian_product(unravel(vector)))
            return image + damping * vector

        direction = conjugate_gradient(product, gradient, cg_iterations)
        curvature = direction @ product(direction)
        usable = curvature > 0
        full_step = jnp.where(usable, jnp.sqrt(2 * max_kl / jnp.where(usable, curvature, 1)), 0) * direction

        def rejected(carry):
            trial, accepted, _, _ = carry
            return ~accepted & (trial < backtracks)

        def attempt(carry):
            trial, _, _, _ = carry
            candidate = start - shrink**trial * full_step
            new_kl = kl_at(candidate)
            # Skip the loss if the step violates the KL constraint.
            rejected_loss = jnp.full_like(loss, jnp.inf)
            new_loss = jax.lax.cond(new_kl <= max_kl, lambda: loss_at(candidate)[0], lambda: rejected_loss)
            return trial + 1, new_loss < loss, new_loss, new_kl

        initial = (jnp.zeros((), jnp.int32), jnp.array(False), loss, jnp.zeros_like(loss))
        trials, accepted, new_loss, new_kl = jax.lax.while_loop(rejected, attempt, initial)
        fraction = jnp.where(accepted, shrink ** (trials - 1).astype(start.dtype), 0)
        metrics = metrics | {
            "loss": loss,
            "meta_gradient_norm": jnp.linalg.norm(gradient),
            "kl_after": jnp.where(accepted, new_kl, 0),
            "improvement": jnp.where(accepted, loss - new_loss, 0),
            "step_fraction": fraction,
        }
        # Not start − 0·step, which would be NaN for a NaN step.
        return unravel(jnp.where(accepted, start - fraction * full_step, start)), opt_state, metrics

    return OuterOptimizer(lambda theta: (), update, needs_kl=True)
