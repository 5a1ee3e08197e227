"""Observations that are pictures and dictionaries, through all algorithms and what surrounds them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.inner.lpg import learned_rule
from metarl_jax.inner.resolve import resolve_advantage
from metarl_jax.observations import shapes_of
from metarl_jax.runs.memory import bytes_of_episode
from tests import rows, toys

KEY = jax.random.key(0)
SIZES = {"tasks": 2, "episodes": 2, "horizon": 4}
LITTLE = {"hidden": (4,), "channels": (2,)}


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("name", rows.by_default(mrl.algorithms.names(), ["maml", "rl2"]))
def test_every_algorithm_takes_dictionaries(name):
    take(name, "dictionary")


@pytest.mark.parametrize("name", toys.every_algorithm(["maml"]))
def test_every_algorithm_takes_pictures(name):
    take(name, "picture")


def take(name, kind):
    """By the default policy, and by tracing alone; θ keeps its form, and D the bytes of a picture."""
    env = toys.dot(kind)
    algorithm = mrl.algorithms.make(
        name, env, policy=LITTLE, **SIZES | ({"adaptation_steps": 1} if "lpg" in name else {})
    )
    state = jax.eval_shape(algorithm.init, KEY)
    after, _ = jax.eval_shape(algorithm.update, KEY, state)
    assert types(after) == types(state)
    gradient, _ = jax.eval_shape(algorithm.gradient, KEY, state.params)
    assert types(gradient) == types(state.params)
    out = jax.eval_shape(algorithm.adapt, KEY, state.params, jax.eval_shape(env.sample_task, KEY))
    pictures = out.trajectory.observation if kind == "picture" else out.trajectory.observation["picture"]
    assert pictures.dtype == jnp.uint8
    assert "pictures" in str(jax.tree.structure(state.params)) or name in ("lpg", "self-tuning")


def updated(name, env, **options):
    """θ before and after an update, and its metrics."""
    algorithm = mrl.algorithms.make(name, env, **SIZES | options)

    @jax.jit
    def run(key):
        state = algorithm.init(key)
        after, metrics = algorithm.update(key, state)
        return state.params, after.params, metrics

    return run(KEY)


def assert_same(left, right, **tolerance):
    left, right = jax.tree.leaves(left), jax.tree.leaves(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 0, "atol": 0} | tolerance)


SAME = {
    "maml": {"episodes": 8, "baseline": "linear_feature", "policy": {"hidden": (4,)}},
    "rl2": {"epochs": 1, "policy": {"encoder": (3,), "gated": True}, "memory_size": 4},
}


@pytest.mark.parametrize("name", rows.by_default(SAME, ["rl2"]))
def test_a_dictionary_of_the_parts_is_the_vector(name):
    """Same numbers, same order, no picture: the networks are the same ones, and so is all that is learned."""
    one, parts = (updated(name, toys.dot(kind), **SAME[name]) for kind in ("vector", "vectors"))
    assert np.isfinite(one[2]["return"]).all()
    assert_same(parts, one)


def test_networks_of_long_lives_see_the_parts_as_the_vector():
    """The prediction of lpg, a critic without time, and fits, on the same episodes, of which one is cut."""
    env, policy = toys.dot("vector"), toys.small_policy(toys.dot("vector"))

    @jax.jit
    def seen(key):
        vector = mrl.rollout.rollout(key, env, policy, policy.init(key), jnp.zeros(2), 3, 5)
        cut = {"valid": vector.valid.at[1, 2:].set(False), "truncated": vector.truncated.at[1, 1].set(True)}
        vector = dataclasses.replace(vector, **cut)
        split = {"observation": vector.observation, "next_observation": vector.next_observation}
        split = {name: {"place": leaf[..., :2], "velocity": leaf[..., 2:]} for name, leaf in split.items()}
        return [
            outputs(key, toys.dot(kind), trajectory)
            for kind, trajectory in {"vector": vector, "vectors": dataclasses.replace(vector, **split)}.items()
        ]

    def outputs(key, env, trajectory):
        rule = learned_rule(env, toys.small_policy(env), 3, 4, 0.9, {"hidden": (4,)})
        critic = mrl.inner.value_network(shapes_of(env), 5, timed=False)
        fits = [mrl.inner.linear_feature(), mrl.inner.leave_one_out()]
        return (
            rule.see(rule.policy.init(key), trajectory),
            critic.values(critic.init(key), trajectory, 0.9),
            [fit(trajectory, 0.9) for fit in fits],
        )

    vector, parts = seen(KEY)
    assert_same(parts, vector)
    assert np.ptp(vector[1][0]) > 0


def flattened(env):
    """The environment of pictures with their bytes as a vector of shares of 255."""

    def view(state):
        return state.replace(observation=(state.observation.astype(float) / 255).ravel())

    return dataclasses.replace(
        env,
        reset=lambda key, task: view(env.reset(key, task)),
        step=lambda task, state, action: view(env.step(task, state, action)),
        observation_shape=None,
    )


def test_a_picture_without_convolutions_is_its_bytes_in_a_vector():
    env = toys.dot("picture")
    shapes = env.observation_shape, env.observation_size
    of_pictures, of_vectors = (
        updated(
            "fomaml",
            seen,
            policy={"hidden": (4,)} | only_picture,
            baseline=mrl.inner.value_network(shape, 4, hidden=(4,), **only_picture),
        )
        for seen, shape, only_picture in ((env, shapes[0], {"channels": ()}), (flattened(env), shapes[1], {}))
    )
    assert_same(of_pictures, of_vectors, rtol=1e-5, atol=1e-6)


def test_a_trust_region_moves_convolutions():
    before, theta, metrics = updated("maml-trpo", toys.dot("dictionary"), policy=LITTLE)
    assert 0 < metrics["kl_after"] <= 0.01
    moved = jax.tree.map(lambda a, b: (a != b).any(), before["pictures"], theta["pictures"])
    assert all(jax.tree.leaves(moved))


def test_the_baseline_suits_the_numbers_of_a_picture():
    """128 numbers are too many for a fit to 8 episodes, 4 are not; a fit that was asked for says so."""
    trial = mrl.base.Trial(episodes=8, horizon=5)
    for kind, expected in {"picture": "linear_time", "vectors": "linear_feature"}.items():
        assert mrl.inner.choose_baseline(None, toys.dot(kind).observation_size, trial) == expected
    with pytest.raises(ValueError, match="'linear_feature', which fits 260 features to 40 steps"):
        resolve_advantage(
            toys.dot("picture"), trial, "gae", "linear_feature", discount=None, lambda_=None, normalized=None
        )


@pytest.mark.parametrize("kind", ["picture", rows.thorough("dictionary"), rows.thorough("vectors")])
def test_a_measure_sees_what_the_policy_sees_without_the_task(kind):
    def measure(data):
        assert jax.tree.structure(data.observation) == jax.tree.structure(plain.reset(KEY, jnp.zeros(2)).observation)
        seen = jax.tree.leaves((data.observation, data.next_observation))
        return {"sizes": jnp.array([leaf.size for leaf in seen])}

    plain = toys.dot(kind)
    env, found = dataclasses.replace(plain, measure=measure), []
    for shown in (env, mrl.envs.reveal_task(env)):
        algorithm = mrl.algorithms.pretrain(shown, tasks=2, episodes=2)
        found.append(jax.jit(algorithm.update)(KEY, algorithm.init(KEY))[1]["sizes"])
    np.testing.assert_array_equal(*found)


def test_a_revealed_task_stands_beside_the_picture():
    picture, dictionary = (mrl.envs.reveal_task(toys.dot(kind)) for kind in ("picture", "dictionary"))
    assert picture.observation_shape == {"observation": (8, 8, 2), "task": (2,)}
    assert dictionary.observation_shape == {"picture": (8, 8, 1), "velocity": (2,), "task": (2,)}
    task = jnp.array([0.3, -0.4])
    for env, plain in ((picture, toys.dot("picture")), (dictionary, toys.dot("dictionary"))):
        state, hidden = env.reset(KEY, task), plain.reset(KEY, task)
        for _ in range(2):
            observation = dict(state.observation)
            np.testing.assert_array_equal(observation.pop("task"), task)
            assert_same(observation, hidden.observation)
            state, hidden = env.step(task, state, jnp.ones(2)), plain.step(task, hidden, jnp.ones(2))
    with pytest.raises(ValueError, match="has an entry 'task' already"):
        mrl.envs.reveal_task(dictionary)
    (fault,) = mrl.envs.check(dictionary)
    assert "observation at reset shows the task" in fault


def test_a_learner_observes_dictionaries():
    """The environment stepped outside, with the arrays of NumPy: φ is finite, and errors name the entry."""
    env = toys.dot("dictionary")
    algorithm = mrl.algorithms.make("fomaml", env, policy=LITTLE, **SIZES)
    learner = mrl.Learner(algorithm, algorithm.init(KEY).params)
    before = learner.params
    rng = np.random.default_rng(0)
    while not learner.full:
        learner.act({"velocity": [0, 0.5], "picture": rng.integers(256, size=(8, 8, 1), dtype=np.uint8)})
        learner.observe(rng.normal())
    assert learner._data.observation["picture"].dtype == np.uint8
    learner.learn()
    assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, learner.params)), strict=True))
    with pytest.raises(ValueError, match=r"observation\['picture'\] has shape \[8, 8\]"):
        learner.act({"velocity": [0, 0], "picture": rng.integers(256, size=(8, 8))})


def test_a_byte_of_a_picture_takes_a_byte():
    sizes = {kind: bytes_of_episode(toys.dot(kind), 10) for kind in ("vector", "picture", "dictionary")}
    assert sizes["picture"] - sizes["vector"] == 10 * (128 - 16)
    assert sizes["dictionary"] - sizes["vector"] == 10 * (64 + 8 - 16)


@pytest.mark.thorough
def test_a_run_of_dictionaries_goes_on_and_is_loaded(tmp_path):
    """Training, evaluation and a checkpoint of an environment of one's own."""
    env = toys.dot("dictionary")
    settings = {"policy": LITTLE, "eval_tasks": 2, "eval_steps": 1, "quiet": True, "tasks": 2, "episodes": 2}
    run = mrl.runs.train(env, "fomaml", tmp_path / "run", iterations=1, **settings)
    assert (tmp_path / "run" / "evaluation.json").exists()
    assert run.env.observation_shape == env.observation_shape
    assert_same(mrl.load(tmp_path / "run", env=env).params, run.params)
