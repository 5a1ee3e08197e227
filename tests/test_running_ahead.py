"""The next chunk runs while the caller works with the last: what is seen of it, and what must not be."""

import functools
import queue
import threading
import types

import jax
import numpy as np
import pytest

from metarl_jax import training
from metarl_jax.training import NonFiniteError, train
from tests.runs.stub import stub_algorithm
from tests.test_training import KEY, assert_identical, run


@pytest.fixture
def ended(monkeypatch):
    """How many iterations every chunk ran, put there as soon as it has ended."""
    counts, timed = queue.Queue(), training._timed

    def noted(*arguments):
        out = timed(*arguments)
        (_, (_, ran, _)), _ = out
        counts.put(int(ran))
        return out

    monkeypatch.setattr(training, "_timed", noted)
    return counts


def test_the_next_chunk_runs_while_the_caller_works_with_the_last(ended):
    ahead = 0
    for chunk in train(stub_algorithm(), KEY, 20, chunk=5):
        while ahead < min(chunk.done + 1, 20):
            ahead += ended.get(timeout=60)  # or nothing else has been begun
        assert int(chunk.state.iteration) == chunk.done
        assert np.isfinite(chunk.state.params["w"]).all()  # still there, although the next chunk started from it


def in_turn(monkeypatch):
    """From now on chunks are run between two yields, as where devices share them."""
    monkeypatch.setattr(training, "_beside", functools.partial)


def test_running_ahead_changes_no_number(monkeypatch):
    options = {"chunk": 4, "on_nonfinite": "rollback", "patience": 3}
    algorithm = stub_algorithm(nan_metric_at=slice(5, 8, 2))
    ahead = run(algorithm, 15, **options)
    in_turn(monkeypatch)
    turns = run(algorithm, 15, **options)
    assert_identical(ahead[1], turns[1])
    # Chunks may end elsewhere, but each multiple of `chunk` is an end.
    for a, b in ((c, d) for c in ahead[0] for d in turns[0] if c.done == d.done):
        assert_identical(a.state, b.state)


def test_nothing_is_yielded_of_a_chunk_behind_one_that_stopped(ended, monkeypatch):
    def stopped():
        seen = []
        with pytest.raises(NonFiniteError) as caught:  # noqa: PT012
            for chunk in train(stub_algorithm(nan_metric_at=6), KEY, 30, pace=lambda count: min(count, 2)):
                seen.append(chunk.done)
        return seen, caught.value

    seen, error = stopped()
    assert seen == [1, 2, 4, 6]
    counts = [ended.get(timeout=60) for _ in range(6)]
    assert counts == [1, 1, 2, 2, 1, 0]  # the chunk that fails, and one that finds the patience used up
    in_turn(monkeypatch)
    before, expected = stopped()
    assert before == seen
    assert str(error) == str(expected)
    assert_identical(error.state, expected.state)
    assert_identical(error.metrics, expected.metrics)


def test_the_pace_is_asked_before_the_last_chunk_is_handed_over_and_what_runs_is_yielded():
    events = []

    def pace(count):
        events.append("asked")
        return 0 if events.count("asked") > 2 else count

    for chunk in train(stub_algorithm(), KEY, 50, pace=pace):
        events.append(chunk.done)
    assert events == ["asked", "asked", 1, "asked", 2]


def test_the_time_of_a_chunk_is_its_own(monkeypatch):
    """Each thread's clock stands still, but for an hour of compilation, a second a program and a day of the caller."""
    clock, lower, ready = threading.local(), training.run_chunk.lower, jax.block_until_ready

    def now():
        return getattr(clock, "now", 0.0)

    def after(seconds, function):
        def call(*arguments):
            clock.now = now() + seconds
            return function(*arguments)

        return call

    monkeypatch.setattr(training, "time", types.SimpleNamespace(perf_counter=now))
    monkeypatch.setattr(training, "run_chunk", types.SimpleNamespace(lower=after(3600.0, lower)))
    monkeypatch.setattr(jax, "block_until_ready", after(1.0, ready))
    chunks = []
    for chunk in train(stub_algorithm(), KEY, 30, chunk=30, seconds=1e5):
        clock.now = now() + 86_400.0
        chunks.append(chunk)
    assert [chunk.seconds for chunk in chunks] == [3601.0] + [1.0] * (len(chunks) - 1)
    assert [len(chunk.metrics["loss"]) for chunk in chunks][:4] == [1, 1, 2, 4]  # a slow caller makes them no shorter


def test_a_loop_that_is_left_leaves_no_thread_and_none_that_an_exit_waits_for(monkeypatch):
    timed, held, threads = training._timed, threading.Event(), []

    def slow(*arguments):
        threads.append(threading.current_thread())
        held.wait(60 if len(threads) > 1 else 0)
        return timed(*arguments)

    monkeypatch.setattr(training, "_timed", slow)
    chunks = train(stub_algorithm(), KEY, 30)
    next(chunks)
    chunks.close()
    assert threads[-1].is_alive()
    assert threads[-1].daemon
    held.set()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
