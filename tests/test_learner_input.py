"""What goes into a learner: misuse is told in words and has not happened, and numbers of every kind are taken."""

import jax
import numpy as np
import pytest

import metarl_jax as mrl
from tests import toys

SIZES = {"tasks": 2, "episodes": 3}
KEY = jax.random.key(3)

MISUSE = {
    "observe first": (lambda x: x.observe(1.0), "call act.observation. first"),
    "act twice": (lambda x: (x.act([0.0]), x.act([0.0])), "call observe"),
    "another shape": (lambda x: x.act([0.0, 1.0]), r"observation has shape \[2\].*shape \[1\]"),
    "words": (lambda x: x.act(["a"]), "observation has shape .1. and dtype <U1"),
    "NaN seen": (lambda x: x.act([np.nan]), "observation is .nan.; it must be finite"),
    "NaN paid": (lambda x: (x.act([0.0]), x.observe(np.nan)), "reward"),
    "a cut without what follows": (lambda x: (x.act([0.0]), x.observe(0.0, truncated=True)), "give next_observation"),
    "another action": (lambda x: (x.act([0.0]), x.observe(0.0, action=[1.0, 2.0])), r"action has shape \[2\]"),
    "nothing seen": (lambda x: x.learn(), "the stage has 0 of 3 episodes"),
    "fewer than a stage": (
        lambda x: (x.act([0.0]), x.observe(0.0, terminated=True), x.learn()),
        "has 1 of 3 episodes, and a step from fewer is another one",
    ),
    "in the middle": (lambda x: (x.act([0.0]), x.observe(0.0), x.learn()), "the stage has 0 of 3"),
    "too large to be seen": (lambda x: x.act([1e300]), "must be finite and at most 1e.08"),
    "too large to be paid": (lambda x: (x.act([0.0]), x.observe(1e39)), "reward is 1e.39; it must be one number"),
    "two rewards": (lambda x: (x.act([0.0]), x.observe([1.0, 2.0])), "it must be one number"),
    "a flag in words": (lambda x: (x.act([0.0]), x.observe(0.0, terminated="no")), "terminated is 'no'"),
    "a full stage": (
        lambda x: [(x.act([0.0]), x.observe(0.0, terminated=True)) for _ in range(4)],
        r"the stage is full; call learn\(\)",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_told(case):
    algorithm = mrl.algorithms.maml(toys.walk(), **SIZES)
    misuse, message = MISUSE[case]
    with pytest.raises(ValueError, match=message):
        misuse(mrl.Learner(algorithm, algorithm.init(KEY).params))


def test_numbers_of_every_kind_go_in():
    algorithm = mrl.algorithms.maml(toys.walk(), **SIZES)
    learner = mrl.Learner(algorithm, algorithm.init(KEY).params)
    for observation, reward, flag in (
        ([1], 1, False),
        (np.ones(1, np.int8), np.float64(0.5), np.bool_(False)),
        (jax.numpy.ones(1), jax.numpy.ones(()), np.array(False)),
        ([True], np.array([2.0]), True),
    ):
        action = learner.act(observation)
        action *= 2  # one's own copy
        learner.observe(reward, flag)
    assert learner.returns == [4.5]


def test_integers_and_trees_are_observed_as_they_are():
    def reset(key, task):
        return toys.State({"a": jax.numpy.zeros(2, jax.numpy.uint8), "b": jax.numpy.zeros(())}, 0.0, False, False)

    env = mrl.TaskEnv(
        sample_task=lambda key: jax.numpy.zeros(()),
        reset=reset,
        step=lambda task, state, action: state.replace(reward=action.sum()),
        observation_size=3,
        action_size=1,
        horizon=2,
    )
    policy = mrl.Policy(
        init=lambda key: jax.numpy.ones(3),
        apply=lambda p, o: mrl.policies.DiagonalGaussian(
            (p * jax.numpy.concatenate([o["a"].astype(float), o["b"][None]])).sum()[None], jax.numpy.zeros(1)
        ),
    )
    algorithm = mrl.algorithms.maml(env, tasks=2, episodes=1, policy=policy, baseline="zero")
    learner = mrl.Learner(algorithm, algorithm.init(KEY).params)
    learner.act({"a": [3, 255], "b": 0.5})
    learner.observe(1.0)
    np.testing.assert_array_equal(learner._data.observation["a"][0, 0], [3, 255])
    with pytest.raises(ValueError, match=r"observation\['a'\] is .* 256.*of dtype uint8"):
        learner.act({"a": [3, 256], "b": 0.5})
    with pytest.raises(ValueError, match="observation is .*are trees"):
        learner.act([1.0, 2.0, 3.0])


def test_a_refused_outcome_has_not_happened():
    rl2 = mrl.algorithms.rl2(toys.bandit(), tasks=2)
    learner = mrl.Learner(rl2, rl2.init(KEY).params)
    proposed = learner.act([0.0])
    for wrong in (3, -1, 1.7):
        with pytest.raises(ValueError, match="action"):
            learner.observe(0.0, action=wrong)
    assert learner.observe(2.0)
    np.testing.assert_array_equal(learner._last_action, np.eye(3)[proposed])


def test_the_loop_of_the_docstring_serves_every_kind():
    for name, options in (("maml", {}), ("rl2", {}), ("self-tuning", {"horizon": 4})):
        env = toys.walk()
        algorithm = mrl.algorithms.make(name, env, tasks=2, episodes=2, **options)
        learner, learned = mrl.Learner(algorithm, algorithm.init(KEY).params), 0
        for _ in range(30):
            learner.act([0.1])
            learner.observe(1.0, next_observation=[0.2])
            if learner.full:
                learner.learn()
                learned += 1
        assert len(learner.returns) == 5, name
        # Twelve steps a stage; an episode; two rows of four steps and of the two that are left of an episode.
        assert learned == {"maml": 2, "rl2": 5, "self-tuning": 5}[name]


def test_what_is_no_algorithm_is_refused():
    algorithm = mrl.algorithms.maml(toys.walk(), **SIZES)
    state = algorithm.init(KEY)
    with pytest.raises(ValueError, match="does not say how to act"):
        mrl.Learner(algorithm._replace(online=None), state.params)
    with pytest.raises(ValueError, match="pass its params"):
        mrl.Learner(algorithm, state)
    learned_rates = mrl.algorithms.make("meta-sgd", toys.walk(), **SIZES)
    for theta in (
        learned_rates.init(KEY).params,
        jax.tree.map(lambda leaf: leaf[None], state.params),
        None,
        mrl.algorithms.maml(toys.walk(), **SIZES, policy={"hidden": (3,)}).init(KEY).params,
    ):
        with pytest.raises(ValueError, match="params is no θ of this algorithm: θ.* has shape"):
            mrl.Learner(algorithm, theta)
