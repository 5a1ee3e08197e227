"""The samplers of `metarl_jax.curriculum`: strata, and prioritised replay against a second implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.curriculum import prioritized, stratified
from tests import toys

KEY = jax.random.key(0)
SIZES = {"tasks": 4, "episodes": 3, "policy": {"hidden": (4,)}}


@pytest.mark.parametrize("count", [6, 7, 2])
def test_stratified_batches_hold_each_task_equally_often(count):
    sampler = stratified({"direction": np.array([-1.0, 0.0, 1.0]), "key": jax.random.split(KEY, 3)})
    draw = jax.jit(lambda key: sampler.sample((), key, count)[0]["direction"])
    orders = {tuple(np.asarray(draw(jax.random.key(number)))) for number in range(20)}
    for order in orders:
        counts = [order.count(direction) for direction in (-1, 0, 1)]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == count
    assert len(orders) > 3, "the order should be random"


class Memory:
    """`prioritized` in plain Python: places with a task and a score."""

    def __init__(self, capacity):
        self.tasks, self.scores = [None] * capacity, [-np.inf] * capacity

    def rank(self):
        return sorted(range(len(self.scores)), key=lambda place: -self.scores[place])


def test_prioritized_replay_against_a_second_implementation():
    capacity, count, replayed = 8, 4, 2
    sampler = prioritized(
        lambda key: jax.random.uniform(key), lambda returns: returns[:, -1], tasks=count, capacity=capacity
    )
    sample = jax.jit(sampler.sample, static_argnums=2)
    memory, state = Memory(capacity), sampler.init()
    seen = set()
    for iteration in range(12):
        tasks, state = sample(state, jax.random.key(iteration), count)
        batch, places = np.asarray(tasks), np.asarray(state.place)
        old = [float(task) in seen for task in batch]
        full = sum(score > -np.inf for score in memory.scores) >= 2 * count
        assert old == [full] * replayed + [False] * (count - replayed)
        assert len(set(places)) == count, "each task of a batch has a place of its own"
        for task, place, was in zip(batch, places, old, strict=True):
            if was:
                assert memory.tasks[place] == task
        # New tasks take the places of the lowest scores, among those that are not played again.
        free = [place for place in reversed(memory.rank()) if place not in places[:replayed] or not full]
        taken = {place for place, was in zip(places, old, strict=True) if not was}
        lowest = sorted(memory.scores[place] for place in free)[: len(taken)]
        assert sorted(memory.scores[place] for place in taken) == lowest
        returns = jnp.stack([jnp.zeros(count), tasks], 1)
        state = sampler.update(state, tasks, returns)
        for task, place in zip(batch, places, strict=True):
            memory.tasks[place], memory.scores[place] = task, task
            seen.add(float(task))
        expected = np.where(np.isinf(memory.scores), 0, memory.scores).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(state.score), expected)
        np.testing.assert_array_equal(np.asarray(state.filled), ~np.isinf(memory.scores))


def test_high_scores_come_again_by_their_rank():
    """P(first place drawn is of rank r) ∝ r^(−1/temperature): 4,000 draws, five standard errors."""
    sampler = prioritized(lambda key: jax.random.uniform(key), lambda r: r[:, 0], tasks=1, capacity=4, replayed=1.0)
    scores = jnp.array([0.1, 0.4, 0.2, 0.3])
    state = sampler.init().replace(tasks=scores, score=scores, filled=jnp.ones(4, bool))
    drawn = jax.jit(jax.vmap(lambda key: sampler.sample(state, key, 1)[0][0]))(jax.random.split(KEY, 4000))
    expected = np.arange(1, 5.0) ** (-1 / 0.3)
    expected /= expected.sum()
    share = np.array([(np.asarray(drawn) == np.float32(value)).mean() for value in (0.4, 0.3, 0.2, 0.1)])
    assert (np.abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)).all()


def test_a_score_of_nan_is_the_lowest():
    sampler = prioritized(lambda key: jax.random.uniform(key), lambda r: r[:, 0], tasks=2, capacity=4)
    tasks, state = sampler.sample(sampler.init(), KEY, 2)
    state = sampler.update(state, tasks, jnp.array([[jnp.nan], [-1e9]]))
    score = np.asarray(state.score)[np.asarray(state.place)]
    assert -np.inf < score[0] < score[1] == -1e9


def test_training_takes_an_update_with_an_empty_memory_for_sound():
    sampler = prioritized(toys.walk().sample_task, lambda returns: returns[:, -1], tasks=4, capacity=8)
    algorithm = mrl.algorithms.maml(toys.walk(), task_sampler=sampler, **SIZES)
    *_, last = mrl.training.train(algorithm, KEY, 3)
    assert not np.asarray(last.metrics["nonfinite"]).any()
    assert np.asarray(mrl.training.unguarded(last.state).opt_state.sampler.filled).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stratified(jnp.zeros(())), "one M > 0"),
        (lambda: stratified((jnp.zeros(2), jnp.zeros(3))), "one M > 0"),
        (lambda: stratified(jnp.zeros((0, 2))), "one M > 0"),
        (lambda: prioritized(None, max, tasks=2), "sample_task"),
        (lambda: prioritized(max, None, tasks=2), "score"),
        (lambda: prioritized(max, max, tasks=2, capacity=3), "at least two batches, 4"),
        (lambda: prioritized(max, max, tasks=2, replayed=1.5), "replayed"),
        (lambda: prioritized(max, max, tasks=2, temperature=0), "temperature"),
    ],
)
def test_bad_arguments_of_samplers(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_tasks_that_are_keys_are_replayed(implementation):
    sampler = prioritized(
        lambda key: jax.random.key(jax.random.randint(key, (), 0, 99), impl=implementation),
        lambda returns: returns[:, 0],
        tasks=2,
        capacity=4,
    )
    state, returns = sampler.init(), jnp.ones((2, 1))
    for iteration in range(3):
        tasks, state = sampler.sample(state, jax.random.key(iteration), 2)
        assert tasks.dtype == state.tasks.dtype
        state = sampler.update(state, tasks, returns)
    assert state.filled.all()


@pytest.mark.parametrize("score", [lambda returns: returns.mean(), lambda returns: returns, lambda returns: 1.0])
def test_one_score_for_all_tasks_is_refused(score):
    sampler = prioritized(lambda key: jax.random.uniform(key), score, tasks=2, capacity=4)
    tasks, state = sampler.sample(sampler.init(), KEY, 2)
    with pytest.raises(ValueError, match="one number per task"):
        sampler.update(state, tasks, jnp.ones((2, 2)))


def test_another_number_of_tasks_is_refused():
    sampler = prioritized(lambda key: jax.random.uniform(key), lambda returns: returns[:, 0], tasks=2)
    with pytest.raises(ValueError, match="tasks of prioritized is 2, and the algorithm has 3"):
        sampler.sample(sampler.init(), KEY, 3)
