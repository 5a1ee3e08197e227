"""What a program has trained, in a folder: what `mrl.save` writes, `mrl.load` reads bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from tests import toys

SIZES = {"tasks": 2, "episodes": 3}
KEY = jax.random.key(7)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def trained(algorithm, iterations, key=KEY, **options):
    *_, last = mrl.training.train(algorithm, key, iterations, **options)
    return last.state


@pytest.fixture(scope="module")
def named():
    env = mrl.envs.make("bernoulli-bandit", arms=3)
    return mrl.algorithms.make("meta-sgd", env, policy={"hidden": [4]}, inner_lr=np.float32(0.25), **SIZES)


def test_names_and_options_are_made_again(named, tmp_path):
    state = trained(named, 2)
    folder = mrl.save(str(tmp_path / "new" / "mine"), named, state)
    run = mrl.load(folder)
    assert folder == run.config.run_folder == tmp_path / "new" / "mine"
    assert (run.iteration, run.config.own, run.config.iterations) == (2, (), 2)
    assert_same(run.state, state)
    assert_same(run.params, state.params)
    assert str(run) == (
        "Loaded('meta-sgd', env='bernoulli-bandit@duan2016 (test)', iteration=2, params: "
        f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,} numbers)"
    )
    again = mrl.load(folder, split="train")
    assert (again.env.name, again.env.action_size) == ("bernoulli-bandit@duan2016", 3)
    told = repr(named).replace("[4]", "(4,)").replace("np.float32(0.25)", "0.25")
    assert repr(again.algorithm) == told
    # Where it was trained, it goes on: the same numbers as without a stop.
    assert_same(trained(again.algorithm, 4, state=again.state), trained(named, 4))


def test_a_state_that_was_never_trained_and_one_of_update_are_saved(named, tmp_path):
    start = named.init(KEY)
    assert mrl.load(mrl.save(tmp_path / "start", named, start)).iteration == 0
    state, _ = jax.jit(named.update)(KEY, start)
    (tmp_path / "empty").mkdir()
    run = mrl.load(mrl.save(tmp_path / "empty", named, state))
    assert run.iteration == 1
    assert_same(run.params, state.params)


def test_of_several_seeds_each_is_loaded(named, tmp_path):
    state = jax.vmap(named.init)(jax.random.split(KEY, 3))
    folder = mrl.save(tmp_path / "three", named, state)
    for seed in range(3):
        run = mrl.load(folder, seed=seed)
        assert_same(run.params, jax.tree.map(lambda leaf, seed=seed: leaf[seed], state.params))
        assert run.state is not None
        assert_same(run.state.params, run.params)
    one = jax.tree.map(lambda leaf: leaf[:1], state)
    assert_same(mrl.load(mrl.save(tmp_path / "one", named, one)).params, mrl.load(folder, seed=0).params)


def test_objects_of_a_program_are_brought_again(tmp_path):
    env, schedule = toys.walk(horizon=4), optax.linear_schedule(0.1, 0.0, 10)
    policy = mrl.policies.mlp(env, hidden=(3,))
    algorithm = mrl.algorithms.maml(env, policy=policy, outer_lr=schedule, **SIZES)
    state = algorithm.init(KEY)
    folder = mrl.save(tmp_path / "mine", algorithm, state)
    with pytest.raises(ValueError, match="needs the objects env, outer_lr, policy; given are none"):
        mrl.load(folder)
    run = mrl.load(folder, env=env, policy=policy, outer_lr=schedule)
    assert_same(run.params, state.params)
    assert run.config.task == env.name


def test_an_environment_that_was_made_by_name_needs_no_object(tmp_path):
    env = mrl.envs.make("point-nav", horizon=4)
    policy = mrl.policies.mlp(env, hidden=(3,))
    algorithm = mrl.algorithms.maml(env, policy=policy, **SIZES)
    folder = mrl.save(tmp_path / "named", algorithm, algorithm.init(KEY))
    with pytest.raises(ValueError, match="needs the objects policy; given are ood, policy"):
        mrl.load(folder, policy=policy, ood=env)
    run = mrl.load(folder, policy=policy, split="ood")
    assert (run.env.horizon, run.env.name) == (4, mrl.envs.make("point-nav", split="ood").name)
    # One that was changed is another.
    other = dataclasses.replace(env, sample_task=lambda key: mrl.envs.GoalTask(goal=jnp.ones(2)))
    for changed in (other, mrl.envs.make("point-nav", split="ood", horizon=4)):
        algorithm = mrl.algorithms.maml(changed, **SIZES)
        folder = mrl.save(tmp_path / str(id(changed)), algorithm, algorithm.init(KEY))
        with pytest.raises(ValueError, match="needs the objects env; given are none"):
            mrl.load(folder)


def by_hand(algorithm):
    return mrl.MetaAlgorithm(algorithm.init, algorithm.update, algorithm.adapt, algorithm.gradient)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda one, state: ("", one, state), "folder is ''; it must be the path of the new folder"),
        (lambda one, state: (3, one, state), "folder is 3; it must be the path"),
        (lambda one, state: ("full", one, state), "full is there and not empty; choose another folder"),
        (lambda one, state: ("file", one, state), "file is there and not empty"),
        (lambda one, state: ("new", "maml", state), "algorithm is 'maml', which no name stands for; make it by"),
        (
            lambda one, state: ("new", by_hand(one), state),
            "algorithm is MetaAlgorithm.init, update, adapt, gradient., wh",
        ),
        (lambda one, state: ("new", mrl.algorithms.mixture({"a": one}), state), "which no name stands for"),
        (
            lambda one, state: ("new", one._replace(adapt=print), state),
            "adapt of the algorithm 'meta-sgd' was replaced",
        ),
        (lambda one, state: ("new", one, state.params), "state is of type Theta; it must be a metarl_jax.MetaState"),
        (
            lambda one, state: ("new", one, mrl.algorithms.maml(toys.walk()).init(KEY)),
            r"state is not one of MetaAlgorithm.'meta-sgd', .*params.* is absent, and float32\[\d",
        ),
    ],
)
def test_mistakes_leave_nothing(arguments, message, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").touch()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message) as refusal:
        mrl.save(*arguments(named, named.init(KEY)))
    assert "\n" not in str(refusal.value)
    assert {path.name for path in tmp_path.rglob("*")} == {"full", "diary.txt", "file"}
