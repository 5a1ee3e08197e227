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
from metarl_jax.compose import assemble, build_parts
from metarl_jax.types import Stage
from tests import rows, toys

SIZES = {"tasks": 4, "episodes": 3, "adaptation_steps": 3, "policy": {"hidden": (4,)}}
OPTIMIZERS = {"maml": {"outer_optimizer": optax.sgd(1.0)}, "promp": {"outer_optimizer": optax.sgd(1.0), "epochs": 1}}


def assert_close(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


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


@pytest.mark.parametrize(("name", "chunk"), [("maml", 2), rows.thorough("promp", None), rows.thorough("maml", None)])
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


def test_the_distance_of_a_trust_region_weighs_the_stages_too():
    """Σ_s v_s KL_s over the counted stages; without weights the mean."""
    parts = build_parts(
        toys.walk(), objective=outer.ratio(), **SIZES | {"adaptation_steps": 2}, burn_in=1, inner_lr=1.0
    )
    kl = outer.meta_objective(parts).kl
    weights = jnp.array([[0, 1, 0], [0, 0, 1], [0, 0.25, 0.75]])

    @jax.jit
    def distances(key):
        theta = parts.adapter.init_meta(key)
        data = outer.collect_tasks(key, parts, theta)
        moved = jax.tree.map(lambda leaf: leaf + 0.1, theta)
        of = jax.vmap(lambda v: kl(moved, data.replace(weight=jnp.tile(v, (SIZES["tasks"], 1)))))
        return kl(moved, data), of(weights)

    plain, (first, second, both) = distances(jax.random.key(0))
    assert abs(first - second) > 0.01 * first
    np.testing.assert_allclose(both, 0.25 * first + 0.75 * second, rtol=1e-5)
    np.testing.assert_allclose(plain, (first + second) / 2, rtol=1e-5)


@pytest.mark.thorough
def test_a_trust_region_goes_from_all_stages_to_the_last_with_its_distance_too():
    def step_of(**options):
        algorithm = mrl.algorithms.maml_trpo(toys.walk(), **SIZES, **options)
        state = algorithm.init(jax.random.key(0))
        update = jax.jit(algorithm.update)
        if "multi_step_iterations" not in options:
            return update(jax.random.key(1), state)
        memory, iteration = state.opt_state
        states = [state.replace(opt_state=(memory, iteration + i)) for i in (0, 2)]
        return [update(jax.random.key(1), state) for state in states]

    annealed = step_of(burn_in=1, multi_step_iterations=2)
    for (after, metrics), burn_in in zip(annealed, (1, 3), strict=True):
        expected, same = step_of(burn_in=burn_in)
        assert metrics["step_fraction"] > 0
        np.testing.assert_allclose(metrics["kl_after"], same["kl_after"], rtol=2e-2)
        # Ten conjugate gradients magnify rounding.
        assert_close(after.params, expected.params, rtol=2e-2, atol=2e-3)


@pytest.mark.thorough
def test_seeds_under_vmap_anneal_alike_with_minibatches_and_an_adaptive_penalty():
    options = {"minibatches": 2, "inner_kl_target": 0.01, "entropy_weight": 0.01, "multi_step_iterations": 2}
    algorithm = mrl.algorithms.promp(toys.walk(), **SIZES, burn_in=1, **options)
    keys = jax.random.split(jax.random.key(0), 2)

    def two(key):
        return jax.lax.scan(lambda state, k: algorithm.update(k, state), algorithm.init(key), jax.random.split(key))

    states, metrics = jax.jit(jax.vmap(two))(keys)
    np.testing.assert_array_equal(metrics["multi_step"], [[1, 0.5]] * 2)
    alone, _ = jax.jit(two)(keys[1])
    assert_close(jax.tree.map(lambda leaf: leaf[1], states.params), alone.params, rtol=1e-3, atol=1e-5)


def test_an_algorithm_without_an_outer_loss_along_the_path_cannot_anneal_it():
    parts = build_parts(toys.walk(), objective=outer.ratio(), burn_in=0, multi_step_iterations=3)
    with pytest.raises(ValueError, match="multi_step_iterations weighs stages of an outer loss, and there is none"):
        assemble(parts, outer.gradient_steps(optax.sgd(1.0)), MetaObjective(lambda theta, data: (0.0, {})))
