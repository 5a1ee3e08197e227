import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import algorithms, envs
from metarl_jax.guard import first_nan, unguarded
from metarl_jax.training import NonFiniteError, streams, train
from tests.runs.stub import stub_algorithm

KEY = jax.random.key(0)


def run(algorithm, iterations, **options):
    chunks = list(train(algorithm, KEY, iterations, **options))
    metrics = {name: np.concatenate([chunk.metrics[name] for chunk in chunks]) for name in chunks[0].metrics}
    return chunks, metrics


def without_anchor(state):
    """The anchor is at the last multiple of `chunk`, so it alone depends on it."""
    return unguarded(state)


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_it_is_the_plain_loop_over_update():
    algorithm = stub_algorithm()
    chunks, metrics = run(algorithm, 7, chunk=3)
    state = algorithm.init(streams(KEY).init)
    for i in range(7):
        state, expected = algorithm.update(jax.random.fold_in(streams(KEY).train, i), state)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name][i], value, rtol=1e-5, atol=1e-6)
    assert int(chunks[-1].state.iteration) == 7
    assert metrics["return"].shape == (7, 2)


def test_numbers_do_not_depend_on_where_chunks_end():
    a, b = run(stub_algorithm(), 20, chunk=20), run(stub_algorithm(), 20, chunk=3, seconds=1e-9)
    assert [c.start for c in a[0]] != [c.start for c in b[0]]
    assert_identical(a[1], b[1])
    assert_identical(without_anchor(a[0][-1].state), without_anchor(b[0][-1].state))


def test_resumed_is_uninterrupted_bit_for_bit():
    algorithm = stub_algorithm()
    whole, metrics = run(algorithm, 11, chunk=4)
    half = list(train(algorithm, KEY, 5, chunk=4))[-1].state
    rest, later = run(algorithm, 11, chunk=4, state=half)
    assert_identical(later, {name: values[5:] for name, values in metrics.items()})
    assert_identical(rest[-1].state, whole[-1].state)


def test_chunks_end_at_multiples_and_cover_every_iteration_once():
    chunks, _ = run(stub_algorithm(), 23, chunk=5)
    ends = [int(chunk.start + len(chunk.metrics["loss"])) for chunk in chunks]
    assert [c.start for c in chunks] == [0, *ends[:-1]]
    assert {5, 10, 15, 20, 23} <= set(ends)
    assert ends[0] == 1  # something to see as soon as there is something


def test_chunks_of_every_length_are_one_program():
    traces: list = []
    algorithm = stub_algorithm(traces=traces)
    chunks = train(algorithm, KEY, 50, chunk=7)
    next(chunks)
    compiled = len(traces)
    lengths = {len(chunk.metrics["loss"]) for chunk in chunks}
    assert len(lengths) > 2
    assert len(traces) == compiled


def test_the_callers_state_survives():
    algorithm = stub_algorithm()
    state = jax.jit(algorithm.init)(KEY)
    list(train(algorithm, KEY, 3, state=state))
    assert jnp.isfinite(state.params["w"]).all()  # a donated buffer raises here


def test_a_metric_that_is_not_finite_stops_and_is_named():
    with pytest.raises(NonFiniteError, match=r"iteration 6: 'loss' is nan") as caught:
        run(stub_algorithm(nan_metric_at=6), 30, chunk=30)
    assert (caught.value.iteration, caught.value.metric) == (6, "loss")


def test_finite_metrics_before_the_stop_are_handed_over():
    seen = 0
    with pytest.raises(NonFiniteError) as caught:  # noqa: PT012
        for chunk in train(stub_algorithm(nan_metric_at=17), KEY, 30, chunk=30, seconds=100.0):
            seen = chunk.start + len(chunk.metrics["loss"])
    before = caught.value.metrics
    assert seen + len(before["loss"]) == 17
    assert np.isfinite(before["return"]).all()


def test_a_state_that_is_not_finite_stops_before_it_is_yielded():
    with pytest.raises(NonFiniteError, match="iteration 4: 'state'"):
        run(stub_algorithm(nan_state_at=4), 5, chunk=5)


def by_hand(algorithm, iterations, undo):
    """The plain loop; `undo` maps an iteration that fails to that whose state goes on."""
    keys = streams(KEY)
    update = jax.jit(algorithm.update)
    states = [algorithm.init(keys.init)]
    for i in range(iterations):
        state = update(jax.random.fold_in(keys.train, i), states[-1])[0]
        states.append(states[undo[i]].replace(iteration=jnp.int32(i + 1)) if i in undo else state)
    return states


@pytest.mark.parametrize("where", ["nan_metric_at", "nan_state_at"])
@pytest.mark.parametrize(("on_nonfinite", "goes_on_from"), [("skip", 6), ("rollback", 4)])
def test_an_update_that_is_not_finite_never_reaches_the_state(on_nonfinite, goes_on_from, where):
    chunks, metrics = run(stub_algorithm(**{where: 6}), 11, chunk=4, on_nonfinite=on_nonfinite)
    states = by_hand(stub_algorithm(), 11, {6: goes_on_from})
    final = without_anchor(chunks[-1].state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), final, states[-1])
    assert metrics["nonfinite"].tolist() == [0] * 6 + [1] + [0] * 4


def test_a_resumed_rollback_is_an_uninterrupted_one_bit_for_bit():
    """Stopped between the anchor and the failure, where no checkpoint of the anchor need be left."""
    options = {"chunk": 4, "on_nonfinite": "rollback"}
    algorithm = stub_algorithm(nan_metric_at=6)
    whole, metrics = run(algorithm, 11, **options)
    half = list(train(algorithm, KEY, 5, **options))[-1].state
    rest, later = run(algorithm, 11, state=half, **options)
    assert_identical(later, {name: values[5:] for name, values in metrics.items()})
    assert_identical(rest[-1].state, whole[-1].state)


@pytest.mark.parametrize("on_nonfinite", ["skip", "rollback"])
def test_patience_ends_and_everything_before_is_handed_over(on_nonfinite):
    with pytest.raises(NonFiniteError, match="iteration 7: 'loss' is nan, the last of 3 iterations in a row") as caught:
        run(stub_algorithm(nan_metric_at=slice(5, 30)), 30, chunk=30, on_nonfinite=on_nonfinite, patience=3)
    error = caught.value
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(error.state.params))
    resumed = train(stub_algorithm(), KEY, 12, state=error.state, on_nonfinite="abort")  # less patience than failures
    assert list(resumed)[-1].done == 12


def test_failures_that_are_not_in_a_row_are_put_up_with():
    _, metrics = run(stub_algorithm(nan_metric_at=slice(1, 30, 2)), 30, on_nonfinite="skip", patience=2)
    assert metrics["nonfinite"].sum() == 15


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_seeds_in_one_program_are_the_seeds_alone(backend, monkeypatch):
    """In turn, as on a CPU, and side by side."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    roots = jnp.stack([jax.random.key(seed) for seed in (3, 4, 5)])
    chunks = list(train(stub_algorithm(), roots, 7, chunk=3))
    metrics = {name: np.concatenate([chunk.metrics[name] for chunk in chunks]) for name in chunks[0].metrics}
    for number, root in enumerate(roots):
        alone = list(train(stub_algorithm(), root, 7, chunk=3))
        of_seed = jax.tree.map(lambda leaf, number=number: leaf[number], chunks[-1].state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), of_seed, alone[-1].state)
        loss = np.concatenate([chunk.metrics["loss"] for chunk in alone])
        np.testing.assert_allclose(metrics["loss"][:, number], loss, rtol=1e-6, atol=1e-6)


@pytest.mark.thorough
def test_seeds_on_point_nav_are_the_seeds_alone():
    env = envs.make("point-nav", horizon=5)
    algorithm = algorithms.make("maml", env, tasks=2, episodes=3, policy={"hidden": (4,)})
    roots = jnp.stack([jax.random.key(seed) for seed in range(5)])
    together = list(train(algorithm, roots, 6))
    alone = list(train(algorithm, roots[3], 6))
    of_seed = jax.tree.map(lambda leaf: leaf[3], together[-1].state.params)
    for a, b in zip(jax.tree.leaves(of_seed), jax.tree.leaves(alone[-1].state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    returns = [np.concatenate([chunk.metrics["return"] for chunk in chunks]) for chunks in (together, alone)]
    np.testing.assert_allclose(returns[0][:, 3], returns[1], rtol=1e-4)


def test_one_seed_that_fails_is_named_and_leaves_the_others_alone():
    roots = jnp.stack([jax.random.key(seed) for seed in (3, 4, 5)])
    first = stub_algorithm().init(streams(roots[1]).init).params["w"][0]

    def update(key, state):
        """Fails where θ starts as that of the second seed does, at iteration 2."""
        new, metrics = algorithm.update(key, state)
        marked = state.opt_state[0].nu["w"][0] > 1e9
        return new, metrics | {"loss": jnp.where(marked & (state.iteration == 2), jnp.nan, metrics["loss"])}

    def init(key):
        state = algorithm.init(key)
        mark = jnp.where(jnp.isclose(state.params["w"][0], first), 1e12, 0.0)
        adam, rest = state.opt_state
        return state.replace(opt_state=(adam._replace(nu={"w": adam.nu["w"] + mark, "b": adam.nu["b"]}), rest))

    algorithm = stub_algorithm()
    broken = algorithm._replace(init=init, update=update)
    with pytest.raises(NonFiniteError, match="iteration 2: 'loss' of seed number 1 is nan") as caught:
        list(train(broken, roots, 5))
    assert caught.value.seed == 1
    chunks = list(train(broken, roots, 5, on_nonfinite="skip"))
    undone = np.concatenate([chunk.metrics["nonfinite"] for chunk in chunks])
    assert undone.T.tolist() == [[0] * 5, [0, 0, 1, 0, 0], [0] * 5]


def test_the_pace_is_set_from_outside_and_ends_the_loop():
    proposed = []

    def pace(count):
        proposed.append(count)
        return 0 if len(proposed) > 3 else min(count, 2)

    chunks = list(train(stub_algorithm(), KEY, 50, seconds=100.0, pace=pace))
    assert [len(chunk.metrics["loss"]) for chunk in chunks] == [1, 1, 2]


def test_the_operation_that_yields_a_nan_is_found_within_loops():
    algorithm = stub_algorithm()

    def update(key, state):
        def step(carry, x):
            return carry + jax.vmap(lambda y: jnp.log(y - 2.0))(x), None  # the line to find

        total, _ = jax.lax.scan(step, jnp.zeros(3), jnp.ones((4, 3)))
        new, metrics = algorithm.update(key, state)
        return new, metrics | {"loss": total.sum()}

    found = first_nan(algorithm._replace(update=update), KEY, algorithm.init(KEY))
    assert re.search(r"nan.*log.*in <lambda> \(.*test_training.py:\d+: .*# the line to find\)", found), found


@pytest.mark.slow
def test_an_update_without_nan_has_no_such_operation():
    env = envs.make("point-nav", horizon=2)
    algorithm = algorithms.make("maml", env, tasks=2, episodes=2, policy={"hidden": (2,)})
    assert first_nan(algorithm, KEY, jax.jit(algorithm.init)(KEY)) is None


def test_streams_are_disjoint_and_want_typed_keys():
    data = {tuple(np.asarray(jax.random.key_data(key))) for key in streams(KEY)}
    assert len(data) == 3
    with pytest.raises(ValueError, match="typed key"):
        streams(jax.random.PRNGKey(0))


@pytest.mark.parametrize(
    "options", [{"iterations": 0}, {"iterations": 2.5}, {"chunk": 0}, {"seconds": -1.0}, {"patience": 0}]
)
def test_sizes_that_are_not_positive_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; it must be an? "):
        train(stub_algorithm(), KEY, **({"iterations": 2} | options))


def test_what_to_do_with_numbers_that_are_not_finite_is_a_known_word():
    with pytest.raises(ValueError, match="unknown on_nonfinite 'skpi': did you mean 'skip'"):
        train(stub_algorithm(), KEY, 2, on_nonfinite="skpi")
