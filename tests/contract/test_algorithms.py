"""The contract of every registered algorithm: its registry line is all that it takes to be tested here."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from tests import rows, toys

SIZES = {"tasks": 4, "episodes": 5, "adaptation_steps": 2}
EPISODES = 15
"""of a trial: 3 stages of 5, or 15 of one where a memory acts at every step"""

# What training draws and logs for every algorithm; the optimisers and objectives add their own.
DOCUMENTED = {"return", "gain", "entropy", "inner_step_norm", "valid_share", "environment_steps", "diverged_episodes"}


# Of variants the default suite traces programs, in double precision, and runs none.
@pytest.fixture(scope="module", params=rows.by_default(mrl.algorithms.names(), toys.OF_THEIR_OWN))
def algorithm(request):
    return make(request.param)


def make(name, hidden=(8,)):
    return mrl.algorithms.make(name, toys.walk(), policy={"hidden": hidden}, **SIZES)


@pytest.fixture(scope="module")
def lead(algorithm, state):
    """[S, N] of the trial."""
    shape = jax.eval_shape(algorithm.adapt, jax.random.key(0), state.params, jnp.zeros(1)).returns.shape
    assert shape in ((3, 5), (15, 1))
    return shape


@pytest.fixture(scope="module")
def state(algorithm):
    return algorithm.init(jax.random.key(0))


@pytest.fixture(scope="module")
def update(algorithm):
    return jax.jit(algorithm.update)


def shapes(tree):
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


def assert_equal(left, right, **tolerance):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 0, "atol": 0, **tolerance})


def test_state_tree_is_stable_and_call_two_does_not_recompile(state, update):
    one, _ = update(jax.random.key(1), state)
    update(jax.random.key(2), one)
    assert jax.tree.structure(one) == jax.tree.structure(state)
    assert shapes(one) == shapes(state)
    assert update._cache_size() == 1
    assert one.iteration == 1


@pytest.mark.parametrize("name", rows.by_default(mrl.algorithms.names(), toys.OF_THEIR_OWN))
def test_a_weakly_typed_theta_does_not_recompile(name):
    """Call two would compile again if call one returned other types than it was given; tracing is enough to see it."""
    policy = mrl.Policy(
        init=lambda key: {"mean": jnp.full(1, 0.1), "scale": 0.5},
        apply=lambda params, _: mrl.policies.DiagonalGaussian(params["mean"], jnp.log(params["scale"])),
        labels=lambda params: {"mean": "context", "scale": "head"},  # so that something moves in every inner loop
    )
    remembering = mrl.RecurrentPolicy(
        init=policy.init,
        start=lambda params: 0.0,
        remember=lambda params, memory, percept: memory + percept.reward,
        act=lambda params, memory, observation: (policy.apply(params, observation), memory * params["scale"]),
        params=lambda params, memory: memory,
    )
    takes = typing.get_args(typing.get_type_hints(mrl.algorithms.ALGORITHMS[name].options)["policy"])
    acting = remembering if mrl.RecurrentPolicy in takes else policy
    algorithm = mrl.algorithms.make(name, toys.walk(), policy=acting, tasks=2, episodes=2)
    start = jax.eval_shape(algorithm.init, jax.random.key(0))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(start))
    after, _ = jax.eval_shape(algorithm.update, jax.random.key(1), start)
    assert shapes(after) == shapes(start)


NO_ENTROPY = {
    "lpg": "policy_entropy_weight needs the method entropy",
    "rl2": "entropy_weight needs the method entropy",
    "rl2-hyper": "entropy_weight needs the method entropy",
    "self-tuning": "entropy_weight of self-tuning needs the method entropy",
}


@pytest.mark.parametrize("distribution", ["squashed", "beta"])
@pytest.mark.parametrize("name", rows.by_default(toys.OF_THEIR_OWN, ["maml-trpo", "rl2"]))
def test_bounded_actions_trace_or_are_refused_in_words(name, distribution):
    policy = {"hidden": (4,), "distribution": distribution}
    algorithm = mrl.algorithms.make(name, toys.walk(), policy=policy, tasks=4, episodes=2)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    if distribution == "squashed" and name in NO_ENTROPY:
        with pytest.raises(ValueError, match=f"{NO_ENTROPY[name]} .*SquashedGaussian has none; .*_weight=0"):
            jax.eval_shape(algorithm.update, jax.random.key(1), state)
        return
    after, _ = jax.eval_shape(algorithm.update, jax.random.key(1), state)
    assert shapes(after) == shapes(state)
    jax.eval_shape(algorithm.gradient, jax.random.key(1), state.params)


def test_theta_moves(state, update):
    after, _ = update(jax.random.key(1), state)
    moved = [bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True)]
    assert all(moved)


def test_update_is_deterministic_in_its_key(state, update):
    assert_equal(update(jax.random.key(1), state), update(jax.random.key(1), state))
    returns = [update(jax.random.key(seed), state)[1]["return"] for seed in (1, 2)]
    assert (returns[0] != returns[1]).all()


def test_metrics_are_finite_and_documented(state, update, lead):
    _, metrics = update(jax.random.key(1), state)
    assert metrics.keys() >= DOCUMENTED | {"loss", "meta_gradient_norm"}
    assert metrics["return"].shape == metrics["entropy"].shape == lead[:1]
    for name, value in metrics.items():
        assert np.isfinite(value).all(), name
    np.testing.assert_allclose(metrics["gain"], metrics["return"][-1] - metrics["return"][0], rtol=1e-5)
    room = SIZES["tasks"] * EPISODES * toys.walk().horizon
    trials = metrics["environment_steps"] / metrics["valid_share"] / room
    # A task's trial, two of an antithetic pair, or a life's window, whose first of three stages was there before.
    assert np.isclose(trials, [1, 2, 2 / 3], rtol=1e-5).any()
    assert 0 < metrics["valid_share"] < 1, "episodes of this environment end early"


@pytest.mark.parametrize("algorithm", toys.every_algorithm(["maml", "rl2"]), indirect=True)
def test_a_scan_under_vmap_over_seeds_equals_loops(algorithm, update, request):
    """Seeds and iterations in one program, as training runs them; and each seed's numbers are its own."""
    if request.node.callspec.params["algorithm"] == "maml-trpo":
        # With more parameters than the few data tell apart, ten conjugate gradients make of a difference of 1e-16 one
        # of 1e-2; a linear policy has few.
        algorithm = make("maml-trpo", hidden=())
        update = jax.jit(algorithm.update)
    roots = jax.random.split(jax.random.key(3), 2)
    states = jax.vmap(algorithm.init)(roots)
    keys = jax.vmap(lambda root: jax.random.split(root, 2))(roots)
    run = jax.jit(jax.vmap(lambda state, keys: jax.lax.scan(lambda s, k: algorithm.update(k, s), state, keys)))
    batched = run(states, keys)
    for seed in range(2):
        state = jax.tree.map(lambda leaf, i=seed: leaf[i], states)
        metrics = []
        for key in keys[seed]:
            state, values = update(key, state)
            metrics.append(values)
        looped = (state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *metrics))
        assert_equal(jax.tree.map(lambda leaf, i=seed: leaf[i], batched), looped, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    "algorithm",
    [
        *toys.UPDATES,
        *map(rows.thorough, toys.VARIANTS),
        *(pytest.param(name, marks=pytest.mark.slow) for name in toys.SLOW_TO_COMPILE),
    ],
    indirect=True,
)
def test_gradient_is_shaped_as_theta_and_finite(algorithm, state, update, lead):
    state, _ = update(jax.random.key(1), state)  # weights that start at 0, as a hypernetwork's, hide others
    keys = jax.random.split(jax.random.key(5), 2)
    gradients, info = jax.jit(jax.vmap(algorithm.gradient, (0, None)))(keys, state.params)
    assert jax.tree.structure(gradients) == jax.tree.structure(state.params)
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    for (path, gradient), theta in zip(leaves, jax.tree.leaves(state.params), strict=True):
        assert gradient.shape == (2, *theta.shape)
        assert np.isfinite(gradient).all()
        # A memory's values serve its training alone, so J does not depend on them.
        serves_training = lead == (EPISODES, 1) and path[0] == jax.tree_util.DictKey("value")
        assert (gradient == 0).all() if serves_training else (gradient != 0).any(), path
    assert info["return"].shape == (2, lead[0])


def test_adapt_returns_the_documented_shapes(algorithm, state, lead):
    env = toys.walk()
    adapt = jax.jit(algorithm.adapt)
    out = adapt(jax.random.key(6), state.params, env.sample_task(jax.random.key(7)))
    assert out.returns.shape == lead
    assert out.trajectory.reward.shape == (*lead, env.horizon)
    assert out.trajectory.observation.shape == (*lead, env.horizon, 1)
    if algorithm.policy is not None:
        phi = jax.eval_shape(algorithm.policy.init, jax.random.key(0))
        assert jax.tree.map(jnp.shape, out.params) == jax.tree.map(jnp.shape, phi)
    np.testing.assert_allclose(out.trajectory.reward.sum(-1), out.returns, rtol=1e-5)
    assert_equal(out, adapt(jax.random.key(6), state.params, env.sample_task(jax.random.key(7))))


@pytest.mark.parametrize("name", mrl.algorithms.names())
def test_everything_follows_double_precision(name):
    """Traced, not run: tests/algorithms and tests/outer compute in float64."""
    algorithm = make(name)
    with jax.enable_x64():
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        after, metrics = jax.eval_shape(algorithm.update, jax.random.key(5), state)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(after.params))
        assert shapes(after) == shapes(state)
        assert metrics["return"].dtype == jnp.float64
