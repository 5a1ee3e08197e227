"""XLand-MiniGrid as `TaskEnv`: its own steps, done by hand, and its block of docs/suites.md."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from tests.envs.suites import KEY, assert_jit_and_vmap_agree, assert_maml_updates, assert_one_type, assert_refused
from tests.envs.suites import from_docs as of_docs

xminigrid = pytest.importorskip("xminigrid")


@pytest.fixture(scope="module")
def docs():
    return of_docs("from_xminigrid", lines=16)


@pytest.mark.thorough
def test_the_block_of_the_page(docs):
    env = docs["env"]
    assert_one_type(env)
    assert (env.observation_size, env.action_size, env.horizon, env.discrete) == (5 * 5 * 25, 6, 40, True)
    assert_jit_and_vmap_agree(env, jnp.array([0, 1, 0]))
    assert mrl.envs.check(env) == ()


def test_episodes_are_those_of_the_suite(docs):
    """Random walks until some have reached the goal and others the time limit; longer ones are cut there."""
    env = mrl.envs.from_xminigrid("XLand-MiniGrid-R1-9x9", docs["sample_ruleset"], max_steps=12, horizon=20)
    raw, params = xminigrid.make("XLand-MiniGrid-R1-9x9", max_steps=12)
    lanes, steps = 40, 12
    keys = jax.random.split(KEY, lanes)
    tasks = jax.vmap(env.sample_task)(keys)
    actions = jax.random.randint(KEY, (lanes, steps), 0, 3)

    @jax.jit
    @jax.vmap
    def ours(key, task, actions):
        def step(state, action):
            state = env.step(task, state, action)
            return state, (state.observation, state.reward, state.terminated, state.truncated)

        return jax.lax.scan(step, env.reset(key, task), actions)[1]

    @jax.jit
    @jax.vmap
    def theirs(key, task, actions):
        own = params.replace(ruleset=task)

        def step(timestep, action):
            after = raw.step(own, timestep, action)
            return after, (after.observation, after.reward, after.last(), after.discount)

        return jax.lax.scan(step, raw.reset(own, key), actions)[1]

    observation, reward, terminated, truncated = map(np.asarray, ours(keys, tasks, actions))
    seen, value, last, discount = map(np.asarray, theirs(keys, tasks, actions))
    one_hot = np.concatenate([np.eye(13)[seen[..., 0]], np.eye(12)[seen[..., 1]]], -1)
    np.testing.assert_array_equal(observation, one_hot.reshape(lanes, steps, -1))
    np.testing.assert_array_equal(reward, value)
    np.testing.assert_array_equal(terminated, discount == 0)
    np.testing.assert_array_equal(truncated, last & (discount == 1))
    assert truncated.any()
    assert not truncated[:, :-1].any()
    assert 3 < terminated.any(1).sum() < lanes, "some reach the goal"


def test_a_picture_is_the_vector_in_another_shape(docs):
    env = mrl.envs.from_xminigrid("XLand-MiniGrid-R1-9x9", docs["sample_ruleset"], max_steps=40, flatten=False)
    assert env.observation_shape == (5, 5, 25)
    task = env.sample_task(KEY)
    flat = docs["env"].reset(KEY, task).observation
    np.testing.assert_array_equal(env.reset(KEY, task).observation.ravel(), flat)


@pytest.mark.thorough
def test_learners_take_it(docs):
    assert_maml_updates(docs["env"])
    algorithm = mrl.algorithms.rl2(docs["env"], tasks=2, episodes=2, horizon=3, memory_size=4, policy={"hidden": (4,)})
    _, metrics = jax.jit(algorithm.update)(KEY, algorithm.init(KEY))
    assert np.isfinite(metrics["return"]).all()


@pytest.mark.parametrize(
    ("arguments", "options", "parts"),
    [
        (
            ("XLand-MiniGrid-R1-9x8",),
            {},
            ["unknown XLand-MiniGrid environment", "did you mean 'XLand-MiniGrid-R1-9x9'"],
        ),
        (("MiniGrid-Empty-5x5",), {}, ["unknown XLand-MiniGrid environment"]),
        ((3,), {}, ["unknown XLand-MiniGrid environment 3"]),
        (("XLand-MiniGrid-R1-9x9",), {"view": 3}, ["unknown parameter", "did you mean 'view_size'"]),
        (("XLand-MiniGrid-R1-9x9",), {"ruleset": 3}, ["unknown parameter"]),
        (("XLand-MiniGrid-R1-9x9",), {"horizon": 0}, ["horizon is 0"]),
    ],
)
def test_bad_input(arguments, options, parts, docs):
    assert_refused(lambda: mrl.envs.from_xminigrid(*arguments, docs["sample_ruleset"], **options), parts)


def test_bad_samplers():
    name = "XLand-MiniGrid-R1-9x9"
    assert_refused(lambda: mrl.envs.from_xminigrid(name, lambda: 3), ["called as sample_ruleset(key)"])
    assert_refused(lambda: mrl.envs.from_xminigrid(name, lambda key: {"goal": 3}), ["returned a dict", "RuleSet"])
