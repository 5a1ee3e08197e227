"""Task samplers, batches drawn together, and the metrics of an environment's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.curriculum import TaskSampler, stratified, task_returns
from tests import rows, toys
from tests.data import random_trajectory

KEY = jax.random.key(0)
SIZES = {"tasks": 4, "episodes": 3, "policy": {"hidden": (4,)}}


def noted(goals):
    """A sampler of fixed goals, whose state keeps what it was told: the number of updates, tasks and returns."""
    goals = jnp.asarray(goals)[:, None]

    def update(state, tasks, returns):
        return state[0] + 1, tasks, returns

    stages = 2
    return TaskSampler(
        init=lambda: (0, jnp.zeros_like(goals), jnp.zeros((len(goals), stages))),
        sample=lambda state, key, count: (goals, state),
        update=update,
    )


def by_stage(data):
    """Mean return of each task's episodes by stage, in NumPy; there are no void ones."""
    data = jax.tree.map(np.asarray, data)
    return np.where(data["valid"], data["rewards"], 0).sum(-1).mean(-1)


def recorded(env):
    return dataclasses.replace(env, measure=lambda data: {"rewards": data.reward, "valid": data.valid})


@pytest.mark.parametrize("name", ["es-maml", rows.thorough("promp")])
def test_a_sampler_is_told_the_returns_of_its_tasks(name):
    goals = [-1.0, 0.0, 2.0, 5.0]
    algorithm = mrl.algorithms.make(name, recorded(toys.walk()), task_sampler=noted(goals), **SIZES)
    start = algorithm.init(KEY)
    state, metrics = jax.jit(algorithm.update)(jax.random.key(1), start)
    number, tasks, returns = state.opt_state.sampler
    assert number == 1
    np.testing.assert_array_equal(tasks[:, 0], goals)
    expected = by_stage(metrics).reshape(4, -1, 2).mean(1)  # es-maml plays two trials in each task
    np.testing.assert_allclose(returns, expected, rtol=1e-5)
    assert returns[3].mean() < returns[1].mean() - 5, "a goal at 5 is far away, so the tasks were these"
    assert not [name for name in metrics if name.startswith("curriculum")]


def test_with_a_memory_every_episode_is_a_stage():
    sampler = noted([0.0, 3.0])._replace(init=lambda: (0, jnp.zeros((2, 1)), jnp.zeros((2, 3))))
    algorithm = mrl.algorithms.rl2(recorded(toys.walk()), tasks=2, episodes=3, memory_size=4, task_sampler=sampler)
    state, metrics = jax.jit(algorithm.update)(KEY, algorithm.init(KEY))
    np.testing.assert_allclose(state.opt_state.sampler[2], by_stage(metrics), rtol=1e-5)


@pytest.mark.parametrize("more", [{"normalize_observations": True, "normalize_rewards": True}, rows.thorough({})])
def test_the_only_task_there_is_changes_nothing(more):
    """With one task in p(M), a sampler of it gives the same θ, and both normalisations go with it."""
    env = mrl.envs.fix_task(toys.walk(), jnp.array([0.5]))
    plain = mrl.algorithms.maml(env, **SIZES, **more)
    sampled = mrl.algorithms.maml(env, **SIZES, **more, task_sampler=stratified(jnp.array([[0.5]])))
    expected, others = jax.jit(plain.update)(KEY, plain.init(KEY))
    state, metrics = jax.jit(sampled.update)(KEY, sampled.init(KEY))
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state.opt_state, expected.opt_state)
    assert metrics.keys() == others.keys()


def test_a_sampler_sees_returns_in_raw_units():
    options = {"normalize_rewards": True, "task_sampler": noted([0.0, 1.0, 2.0, 3.0]), **SIZES}
    algorithm = mrl.algorithms.maml(recorded(toys.walk()), **options)
    update = jax.jit(algorithm.update)
    state, _ = update(KEY, algorithm.init(KEY))
    state, metrics = update(jax.random.key(1), state)  # from now on rewards are divided
    assert state.params.statistics.gain.scale > 1.5
    np.testing.assert_allclose(state.opt_state.sampler[2], by_stage(metrics), rtol=1e-4)


def test_a_sampler_works_under_vmap_and_scan():
    algorithm = mrl.algorithms.maml(toys.walk(), task_sampler=noted([0.0, 1.0, 2.0, 3.0]), **SIZES)
    states = jax.vmap(algorithm.init)(jax.random.split(KEY, 2))
    keys = jax.random.split(jax.random.key(1), (2, 3))
    run = jax.jit(jax.vmap(lambda state, keys: jax.lax.scan(lambda s, k: algorithm.update(k, s), state, keys)[0]))
    np.testing.assert_array_equal(run(states, keys).opt_state.sampler[0], [3, 3])


def test_adapt_and_gradient_are_those_of_p_of_m():
    plain = mrl.algorithms.maml(toys.walk(), **SIZES)
    sampled = mrl.algorithms.maml(toys.walk(), task_sampler=noted([9.0] * 4), **SIZES)
    theta = plain.init(KEY).params
    expected, _ = jax.jit(plain.gradient)(KEY, theta)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(sampled.gradient)(KEY, theta)[0], expected)


def test_a_task_without_an_episode_has_no_return():
    data = random_trajectory(0, episodes=4, horizon=3)
    data = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf])[:, None], data)
    whole = data.replace(valid=jnp.ones_like(data.valid))
    void = whole.replace(valid=whole.valid & np.array([True, False])[:, None, None, None])
    expected = whole.reward.sum(-1).mean(-1)
    np.testing.assert_allclose(task_returns(whole), expected, rtol=1e-6)
    np.testing.assert_allclose(task_returns(void), [expected[0], [np.nan]], rtol=1e-6)


# --- batches drawn together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maml", rows.thorough("rl2"), rows.thorough("self-tuning")])
def test_tasks_that_are_drawn_together(name):
    """The reward is the task, so the metrics show which tasks were played."""
    env = mrl.TaskEnv(
        name="tell",
        sample_task=lambda key: jnp.array(-1.0),
        sample_tasks=lambda key, count: 10.0 * jnp.arange(count),
        reset=lambda key, task: toys.State(jnp.zeros(1), 0.0, False, False),
        step=lambda task, state, action: toys.State(state.observation, task, False, False),
        observation_size=1,
        action_size=1,
        horizon=2,
        measure=lambda data: {"task_returns": task_returns(data)},
    )
    small = {"memory_size": 4} if name == "rl2" else {"policy": {"hidden": ()}}
    algorithm = mrl.algorithms.make(name, env, tasks=3, episodes=2, **small)
    update = jax.jit(algorithm.update)
    state, metrics = update(KEY, algorithm.init(KEY))
    np.testing.assert_allclose(
        metrics["task_returns"],
        np.array([[0.0], [20.0], [40.0]]) + np.zeros((1, 2))[:, : metrics["task_returns"].shape[1]],
    )
    out = jax.jit(algorithm.adapt)(KEY, state.params, jnp.array(5.0))
    np.testing.assert_allclose(out.returns, 10.0)


def test_tasks_as_an_argument_of_update():
    """What the page on curricula shows: one program for all batches of tasks."""
    env = recorded(toys.walk())

    @jax.jit
    def update(key, state, tasks):
        here = dataclasses.replace(env, sample_tasks=lambda key, count: tasks)
        return mrl.algorithms.maml(here, **SIZES).update(key, state)

    state = mrl.algorithms.maml(env, **SIZES).init(KEY)
    near = by_stage(update(KEY, state, jnp.zeros((4, 1)))[1])
    far = by_stage(update(KEY, state, jnp.full((4, 1), 9.0, float))[1])
    assert far.max() < near.min() - 50
    assert update._cache_size() == 1


def test_tasks_may_be_written_with_numpy():
    """And as integers where the family has floats, as for `adapt`."""
    env = dataclasses.replace(toys.walk(), sample_tasks=lambda key, count: np.arange(count)[:, None])
    sampler = TaskSampler(lambda: (), lambda state, key, count: (np.zeros((count, 1)), state), lambda *_: ())
    for algorithm in (mrl.algorithms.maml(env, **SIZES), mrl.algorithms.maml(env, task_sampler=sampler, **SIZES)):
        jax.eval_shape(lambda key, made=algorithm: made.update(key, made.init(key)), KEY)


def test_a_split_draws_other_batches():
    def env(split):
        return mrl.envs.registry.in_split(
            dataclasses.replace(toys.walk(), sample_tasks=lambda key, count: jax.random.normal(key, (count, 1))), split
        )

    batches = [env(split).sample_tasks(KEY, 3) for split in ("test", "ood")]
    assert np.abs(batches[0] - batches[1]).min() > 1e-3


# --- bad input -------------------------------------------------------------------------------------------------------

WRONG = {
    "none": (3, "task_sampler is 3; it must be"),
    "no function": (noted([0.0] * 4)._replace(update=None), r"called as update\(state, tasks, returns\)"),
    "an argument too many": (noted([0.0] * 4)._replace(init=lambda key: 0.0), r"arguments \(key\); .* as init\(\)"),
    "no pair": (
        noted([0.0] * 4)._replace(sample=lambda state, key, count: jnp.zeros(count)),
        "must give .tasks, state",
    ),
    "too few": (noted([0.0] * 3), "the 4 tasks of a meta-iteration are float32.3,1., and those of 'walk' are like"),
    "another dtype": (
        noted([0.0] * 4)._replace(sample=lambda state, key, count: (jnp.zeros((count, 1), complex), state)),
        "those of 'walk' are like",
    ),
    "a state that grows": (
        noted([0.0] * 4)._replace(update=lambda state, tasks, returns: (*state, 1)),
        "must stay",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_samplers_are_refused(case):
    sampler, words = WRONG[case]

    def update(key):
        algorithm = mrl.algorithms.maml(toys.walk(), task_sampler=sampler, **SIZES)
        return algorithm.update(key, algorithm.init(key))

    with pytest.raises(ValueError, match=words):
        jax.eval_shape(update, KEY)


@pytest.mark.parametrize("name", ["lpg", "self-tuning"])
def test_agents_that_live_on_take_no_sampler(name):
    with pytest.raises(ValueError, match="agents live on; give the environment sample_tasks"):
        mrl.algorithms.make(name, toys.walk(), task_sampler=noted([0.0]))


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (lambda data: data.reward.sum(), "must give a dictionary"),
        (lambda data: {"return": data.reward.sum()}, "gives 'return'"),
        (lambda data: {1: data.reward.sum()}, "gives 1"),
        (lambda data: {"loss": data.reward.sum()}, "gives 'loss', a name that is taken"),
        (lambda data: {"seed": data.reward.sum()}, "gives 'seed', a name that is taken"),
        (lambda data: {"a,b": data.reward.sum()}, "gives 'a,b'"),
        (lambda data: {"a": {"b": data.reward.sum()}}, "gives a=.* it must be numbers"),
        (lambda data: {"a": "text"}, "gives a='text'; it must be numbers"),
        (lambda data: {"a": jax.random.key(0)}, "gives a of key.* it must be numbers"),
    ],
)
@pytest.mark.parametrize(
    "around", [{}, rows.thorough({"normalize_rewards": True, "task_sampler": stratified(jnp.zeros((1, 1)))})]
)
def test_bad_measures_are_refused(measure, words, around):
    algorithm = mrl.algorithms.maml(dataclasses.replace(toys.walk(), measure=measure), **SIZES, **around)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda key: algorithm.update(key, algorithm.init(key)), KEY)


@pytest.mark.parametrize("field", ["measure", "sample_tasks"])
def test_an_environment_wants_functions(field):
    with pytest.raises(ValueError, match=f"{field} of the environment"):
        dataclasses.replace(toys.walk(), **{field: 3})
