import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.training import NonFiniteError, streams, train
from tests.runs.stub import stub_algorithm

KEY = jax.random.key(0)


def run(algorithm, iterations, **options):
    chunks = list(train(algorithm, KEY, iterations, **options))
    metrics = {name: np.concatenate([chunk.metrics[name] for chunk in chunks]) for name in chunks[0].metrics}
    return chunks, metrics


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
    assert_identical(a[0][-1].state, b[0][-1].state)


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


def test_streams_are_disjoint_and_want_typed_keys():
    data = {tuple(np.asarray(jax.random.key_data(key))) for key in streams(KEY)}
    assert len(data) == 3
    with pytest.raises(ValueError, match="typed key"):
        streams(jax.random.PRNGKey(0))


@pytest.mark.parametrize("options", [{"iterations": 0}, {"chunk": 0}, {"seconds": -1.0}])
def test_sizes_that_are_not_positive_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; it must be positive"):
        train(stub_algorithm(), KEY, **({"iterations": 2} | options))
