"""Iterations without a sound episode: they stop the training, or are skipped, and the number that did it is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.guard import first_void, guard, guarded
from metarl_jax.rollout import rollout
from metarl_jax.soundness import watched, witnessed
from metarl_jax.training import NonFiniteError, train
from tests import rows, toys

KEY = jax.random.key(0)
RESET, STEP, REWARD = range(3)


def breaking(task=None):
    """A walk of 3 steps on [2]; a task says what becomes no number of use, and which it becomes."""

    def spoil(state, task, now):
        place, reward = state.observation, state.reward
        place = place.at[1].set(jnp.where(now & (task["where"] != REWARD), task["value"], place[1]))
        return state.replace(
            observation=place, reward=jnp.where(now & (task["where"] == REWARD), task["value"], reward)
        )

    def reset(key, task):
        start = toys.CounterState(jax.random.normal(key, (2,)), 0.0, False, False, 0)
        return spoil(start, task, task["where"] == RESET)

    def step(task, state, action):
        place = state.observation + action
        after = toys.CounterState(place, -jnp.sum(place**2), False, False, state.time + 1)
        return spoil(after, task, (task["where"] != RESET) & (after.time == 2))

    return mrl.TaskEnv(
        sample_task=lambda key: task or {"where": jnp.array(STEP), "value": jax.random.normal(key)},
        reset=reset,
        step=step,
        observation_size=2,
        action_size=2,
        horizon=3,
    )


CAUSES = {
    (RESET, jnp.inf): "observation[1] is inf at reset, and an episode takes up to ±1e+08",
    (STEP, -3e8): "observation[1] is -3e+08 after a step, and an episode takes up to ±1e+08",
    (REWARD, jnp.nan): "reward is nan after a step, and an episode takes up to ±1e+14",
    (REWARD, -2e14): "reward is -2e+14 after a step, and an episode takes up to ±1e+14",
    (REWARD, -5.0): None,
}


def test_a_witness_names_field_component_value_and_limit():
    env = breaking()
    policy = toys.small_policy(env)
    params = policy.init(KEY)
    with watched() as witness:
        run = jax.jit(jax.vmap(lambda task: rollout(KEY, env, policy, params, task, 2, 3)))
        for (where, value), message in CAUSES.items():
            witness.seen = None
            tasks = {"where": jnp.full(3, where), "value": jnp.array([0.5, value, 0.5])}  # only one of them breaks
            void = jax.block_until_ready(run(tasks)).void
            np.testing.assert_array_equal(void, np.full((3, 2), message is not None) & [[False], [True], [False]])
            assert witness.seen == message


# One of each way to collect: side by side, one after the other, where they stopped.
@pytest.mark.parametrize("name", ["maml", rows.thorough("rl2"), pytest.param("self-tuning", marks=pytest.mark.slow)])
def test_training_stops_and_names_the_number(name):
    env = breaking({"where": jnp.array(RESET), "value": jnp.array(jnp.inf)})
    algorithm = mrl.algorithms.make(name, env, tasks=2, episodes=2, policy={"hidden": (4,)})
    message = r"iteration 0: 'diverged_episodes' is \d+, all of them: observation\[1\] is inf at reset"
    with pytest.raises(NonFiniteError, match=message) as caught:
        list(train(algorithm, KEY, 3))
    start = guarded(algorithm.init(mrl.training.streams(KEY).init))
    jax.tree.map(np.testing.assert_array_equal, caught.value.state.params, start.params)


def stub(void):
    """An algorithm that counts; ``void(key, iteration)`` says of an iteration whether all its 4 episodes are."""

    def update(key, state):
        lost = void(key, state.iteration)
        moment = toys.State(jnp.array([0.0, jnp.where(lost, jnp.inf, 1.0)]), 0.0, False, False)
        sound = witnessed(jnp.isfinite(moment.observation).all(), "after a step", moment)
        told = {
            "return": jnp.where(sound, jnp.array([-2.0, -1.0]), jnp.nan),
            "diverged_episodes": jnp.where(sound, 1, 4),
            "environment_steps": jnp.where(sound, 9, 0),
        }
        return state.replace(params=state.params + 1, iteration=state.iteration + 1), told

    def init(key):
        return mrl.MetaState(params=jnp.zeros(()), opt_state=(), iteration=jnp.zeros((), jnp.int32))

    def unused(*_):
        raise NotImplementedError

    return mrl.MetaAlgorithm(init, update, unused, unused)


def test_skipping_goes_on_and_ends_with_the_patience():
    chunks = list(train(stub(lambda key, i: i % 3 == 1), KEY, 7, on_nonfinite="skip", patience=2))
    seen = {name: np.concatenate([chunk.metrics[name] for chunk in chunks]) for name in chunks[0].metrics}
    assert seen["nonfinite"].tolist() == [0, 1, 0, 0, 1, 0, 0]
    assert chunks[-1].state.params == 5
    with pytest.raises(
        NonFiniteError, match=r"iteration 4: .*observation\[1\] is inf.*the last of 3 iterations in a row"
    ):
        list(train(stub(lambda key, i: i > 1), KEY, 9, on_nonfinite="skip", patience=3))


def test_of_several_seeds_the_one_that_broke_is_named():
    roots = jax.random.split(KEY, 3)
    bad = jax.random.key_data(jax.random.fold_in(mrl.training.streams(roots[1]).train, 2))
    broken = stub(lambda key, i: (jax.random.key_data(key) == bad).all())
    with pytest.raises(NonFiniteError, match=r"iteration 2: .* of seed number 1 is 4, all of them: observation\[1\]"):
        list(train(broken, roots, 5))


def test_a_stage_without_a_return_is_no_fault_while_others_have_one():
    def update(key, state):
        told = {"return": jnp.array([-1.0, jnp.nan]), "gain": jnp.nan, "diverged_episodes": 4, "environment_steps": 9}
        return state, jax.tree.map(jnp.asarray, told | {"entropy": jnp.where(state.params > 0, 1.0, jnp.nan)})

    state = guarded(mrl.MetaState(params=jnp.ones(()), opt_state=(), iteration=jnp.zeros((), jnp.int32)))
    run = guard(update, "skip", 5)
    assert run(KEY, state)[1]["nonfinite"] == 0
    assert run(KEY, state.replace(params=-state.params))[1]["nonfinite"] == 1  # a policy that fails is no lost episode


def test_where_nothing_breaks_there_is_nothing_to_name():
    algorithm = stub(lambda key, i: i < 0)
    assert first_void(algorithm, KEY, algorithm.init(KEY)) is None
