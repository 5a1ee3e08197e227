"""The multi-step loss whose earlier stages fade: identities with the same algorithm at other burn-ins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.base import MetaObjective, OuterOptimizer
from metarl_jax.types import Stage
from tests import toys

SIZES = {"tasks": 4, "episodes": 3, "adaptation_steps": 3, "policy": {"hidden": (4,)}}
OPTIMIZERS = {"maml": {"outer_optimizer": optax.sgd(1.0)}, "promp": {"outer_optimizer": optax.sgd(1.0), "epochs": 1}}


@functools.cache
def step_of(name, chunk=None, **options):
    """θ's step by one update from the same θ on the same data, after so many meta-iterations."""
    algorithm = mrl.algorithms.make(name, toys.walk(), **SIZES, **OPTIMIZERS[name], **options, task_chunk=chunk)

    @jax.jit
    def step(iteration):
        state = algorithm.init(jax.random.key(0))
        if "multi_step_iterations" in options:
            state = state.replace(opt_state=(state.opt_state[0], iteration))
        after, metrics = algorithm.update(jax.random.key(1), state)
        return jax.tree.map(jnp.subtract, after.params, state.params), metrics

    return step


@pytest.mark.parametrize(("name", "chunk"), [("maml", None), ("maml", 2), ("promp", None)])
@pytest.mark.parametrize(("iteration", "share"), [(0, 1.0), (1, 0.75), (3, 0.25), (4, 0.0), (9, 0.0)])
def test_a_step_lies_between_that_of_all_stages_and_that_of_the_last(name, chunk, iteration, share):
    """Steps of gradient descent are linear in the loss, and v_s = ρ / C + (1 − ρ) [s = L]."""
    step, metrics = step_of(name, chunk, burn_in=1, multi_step_iterations=4)(jnp.int32(iteration))
    of_all, of_last = (step_of(name, burn_in=burn_in)(0)[0] for burn_in in (1, 3))
    assert metrics["multi_step"] == share
    for now, every, last in zip(*map(jax.tree.leaves, (step, of_all, of_last)), strict=True):
        np.testing.assert_allclose(now, share * every + (1 - share) * last, rtol=2e-4, atol=2e-6)
        assert np.abs(every - last).max() > 1e-3


def test_the_number_of_meta_iterations_is_what_counts():
    """Not that of the outer steps: ProMP takes five of them in each."""
    algorithm = mrl.algorithms.promp(toys.walk(), **SIZES, burn_in=1, multi_step_iterations=4)
    state, shares = algorithm.init(jax.random.key(0)), []
    update = jax.jit(algorithm.update)
    for iteration in range(6):
        state, metrics = update(jax.random.key(iteration), state)
        shares.append(float(metrics["multi_step"]))
    np.testing.assert_allclose(shares, [1, 0.75, 0.5, 0.25, 0, 0])


def test_weights_by_hand():
    """L = 2, K = 1, n = 2: two counted stages of four."""
    seen = []
    steps = OuterOptimizer(lambda theta: 7, lambda objective, theta, state, data: (seen.append(data), state, {}))
    trial = mrl.Trial(tasks=5, adaptation_steps=2, burn_in=1)
    annealed, data = outer.annealed_stages(steps, trial, 2), Stage(None, None, None, None, jnp.zeros((5, 3, 4)))  # type: ignore
    state = annealed.init(())
    assert state[0] == 7
    for expected in ([0.5, 0.5], [0.25, 0.75], [0.0, 1.0]):
        _, state, _ = annealed.update(MetaObjective(lambda *_: (0, {})), (), state, data)
        weight = seen[-1].weight
        assert weight.shape == (5, 3)
        np.testing.assert_allclose(weight[:, 1:], np.tile(expected, (5, 1)))


def test_a_trust_region_goes_through_it():
    algorithm = mrl.algorithms.maml_trpo(toys.walk(), **SIZES, burn_in=1, multi_step_iterations=2)
    state = algorithm.init(jax.random.key(0))
    state, metrics = jax.jit(algorithm.update)(jax.random.key(1), state)
    assert metrics["multi_step"] == 1
    assert metrics["kl_after"] <= 0.01 * 1.001
    assert state.opt_state[1] == 1
