"""f_θ outside of the program: the same data give the φ of `adapt`, step by step, and misuse is told in words."""

import pathlib

import jax
import numpy as np
import pytest

import metarl_jax as mrl
from tests import toys

SIZES = {"tasks": 2, "episodes": 3}
KEY = jax.random.key(3)


def replay(learner, trajectory, stages):
    """Feeds collected episodes [S, N, T, ...] to a learner, which learns after each of the first `stages`."""
    data = jax.tree.map(np.asarray, trajectory)
    for s in range(data.valid.shape[0]):
        for n in range(data.valid.shape[1]):
            for t in np.flatnonzero(data.valid[s, n]):
                at = s, n, t
                learner.act(data.observation[at])
                learner.observe(
                    data.reward[at],
                    terminated=not data.discount[at],
                    truncated=data.truncated[at],
                    next_observation=data.next_observation[at],
                    action=data.action[at],
                )
        if s < stages:
            learner.learn()


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one, other)


@pytest.mark.parametrize("name", toys.EVERY_ALGORITHM)
def test_the_same_episodes_give_the_same_parameters(name):
    """Two inner steps, of which the second is beyond training's; early ends of both kinds."""
    env = toys.walk()
    algorithm = mrl.algorithms.make(name, env, **SIZES, adaptation_steps=1)
    theta = jax.jit(algorithm.init)(KEY).params
    expected = jax.jit(algorithm.adapt, static_argnames="steps")(KEY, theta, env.sample_task(KEY), steps=2)
    valid = np.asarray(expected.trajectory.valid)
    assert not valid.all(), "an episode should end early"
    learner = mrl.Learner(algorithm, theta)
    if name in ("lpg", "self-tuning"):  # whose agents are born with a φ of their own: that of `adapt`
        learner._fast = jax.jit(algorithm.online.start)(jax.random.split(jax.random.split(KEY)[0])[0], theta)
    replay(learner, expected.trajectory, stages=2)
    close(learner.params, expected.params)
    whole = np.asarray(expected.returns).ravel()
    if name not in ("lpg", "self-tuning"):  # whose rows may be pieces
        np.testing.assert_allclose(learner.returns, whole, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"stage_steps": 8},
        {"baseline": "value_network"},
        {"surrogate": "likelihood_ratio", "average": "valid", "inner_lr": (0.2, 0.05)},
        {"inner_optimizer": "adam", "inner_lr_beyond": "constant"},
    ],
)
def test_options_of_the_trial_hold(options):
    env = toys.walk()
    algorithm = mrl.algorithms.maml(env, **SIZES, **options)
    theta = jax.jit(algorithm.init)(KEY).params
    expected = jax.jit(algorithm.adapt, static_argnames="steps")(KEY, theta, env.sample_task(KEY), steps=2)
    learner = mrl.Learner(algorithm, theta)
    replay(learner, expected.trajectory, stages=2)
    close(learner.params, expected.params)


def test_a_budget_makes_a_stage_full():
    """Eight steps are two episodes, or one of six and what follows; then the stage is full, whatever N is."""
    algorithm = mrl.algorithms.maml(toys.walk(), tasks=2, episodes=5, stage_steps=8)
    learner = mrl.Learner(algorithm, algorithm.init(KEY).params)
    fulls = []
    for length in (6, 3):
        for step in range(length):
            learner.act([0.0])
            learner.observe(0.0, terminated=step == length - 1)
            fulls.append(learner.full)
    assert fulls == [False] * 8 + [True]
    learner.learn()
    assert not learner.full


def test_rows_behind_the_budget_are_where_policies_have_values():
    """A policy that is NaN at 0, where a blank row would be."""
    env = toys.walk()
    policy = mrl.Policy(
        init=lambda key: jax.numpy.ones(1),
        apply=lambda p, o: mrl.policies.DiagonalGaussian(p * o / jax.numpy.sqrt((o**2).sum()), jax.numpy.zeros(1)),
    )
    algorithm = mrl.algorithms.maml(env, tasks=2, episodes=4, stage_steps=3, policy=policy, baseline="zero")
    theta = jax.jit(algorithm.init)(KEY).params
    expected = jax.jit(algorithm.adapt)(KEY, theta, env.sample_task(KEY))
    learner = mrl.Learner(algorithm, theta)
    assert not np.asarray(expected.trajectory.valid)[0, 2:].any(), "two rows should be spare"
    replay(learner, expected.trajectory, stages=1)
    assert np.isfinite(learner.params).all()
    close(learner.params, expected.params)


def fed(learner, length=6, **last):
    """One episode of an own kind; its last step as told."""
    for step in range(length):
        learner.act([0.1 * step])
        learner.observe(0.3 * step, **(last if step == length - 1 else {}))


def test_a_time_limit_at_the_horizon_is_no_truncation():
    algorithm = mrl.algorithms.maml(toys.walk(), **SIZES)
    theta = algorithm.init(KEY).params
    found = []
    for told in ({}, {"truncated": True, "next_observation": [9.0]}, {"next_observation": [9.0]}):
        learner = mrl.Learner(algorithm, theta)
        for _ in range(3):
            fed(learner, **told)
        learner.learn()
        found.append(learner.params)
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


@pytest.mark.parametrize("name", ["maml", "rl2"])
def test_a_discarded_episode_leaves_no_trace_and_a_reset_learner_is_a_new_one(name):
    algorithm = mrl.algorithms.make(name, toys.walk(), **SIZES)
    theta = algorithm.init(KEY).params
    plain, disturbed = mrl.Learner(algorithm, theta), mrl.Learner(algorithm, theta)

    def live(learner, broken):
        for episode in range(3):
            if broken and episode == 1:
                learner.act([0.5])
                learner.observe(7.0)
                learner.act([0.7])
                learner.discard()
            for step in range(4):
                learner.act([0.1 * step])
                learner.observe(0.3 * step, terminated=step == 3, action=[0.2 * step])
            if learner.full:
                learner.learn()
        return learner.params

    first = live(plain, broken=False)
    jax.tree.map(np.testing.assert_array_equal, first, live(disturbed, broken=True))
    assert plain.returns == disturbed.returns
    plain.reset(seed=0)
    assert plain.returns == []
    jax.tree.map(np.testing.assert_array_equal, first, live(plain, broken=False))
    one = mrl.Learner(algorithm, theta).act([0.0])
    plain.reset(seed=0)
    np.testing.assert_array_equal(plain.act([0.0]), one)
    plain.reset()
    assert not np.array_equal(plain.act([0.0]), one), "the next seed draws other actions"


def test_a_step_that_is_not_finite_is_refused_and_changes_nothing():
    algorithm = mrl.algorithms.maml(toys.walk(), **SIZES, normalized=False, inner_lr=1e38)
    learner = mrl.Learner(algorithm, algorithm.init(KEY).params)
    before = learner.params
    for _ in range(3):
        for _ in range(6):
            learner.act([1.0])
            learner.observe(1e13)
    with pytest.raises(ValueError, match="φ would not be finite"):
        learner.learn()
    jax.tree.map(np.testing.assert_array_equal, learner.params, before)


@pytest.mark.parametrize(("name", "make"), [("maml", toys.walk), ("rl2", toys.bandit), ("rl2", toys.walk)])
def test_actions_are_draws_of_its_policy_and_nothing_is_traced_later(name, make):
    env, traces = make(), []

    def counting(function):
        def counted(*args):
            traces.append(1)
            return function(*args)

        return counted

    if name == "rl2":
        policy = mrl.policies.gru(env, memory_size=3)
        policy = policy._replace(remember=counting(policy.remember))
    else:
        policy = toys.small_policy(env)
        policy = policy._replace(apply=counting(policy.apply))
    algorithm = mrl.algorithms.make(name, env, tasks=2, episodes=2, policy=policy)
    theta = algorithm.init(KEY).params
    one, two, other = (
        mrl.Learner(algorithm, theta),
        mrl.Learner(algorithm, theta),
        mrl.Learner(algorithm, theta, seed=1),
    )
    before, task = len(traces), env.sample_task(KEY)
    step, reset = jax.jit(env.step), jax.jit(env.reset)
    actions = {id(learner): [] for learner in (one, two, other)}
    for learner in (one, two, other):
        for stage in range(2):
            for episode in range(2):
                state, over = reset(jax.random.fold_in(KEY, 2 * stage + episode), task), False
                while not over:
                    action = learner.act(state.observation)
                    assert isinstance(action, int) if env.discrete else action.shape == (env.action_size,)
                    actions[id(learner)].append(action)
                    state = step(task, state, action)
                    over = learner.observe(
                        float(state.reward), bool(state.terminated), bool(state.truncated), state.observation
                    )
            learner.learn()
    assert len(traces) == before, "programs are compiled at the start"
    assert np.array_equal(
        np.concatenate([np.ravel(a) for a in actions[id(one)]]),
        np.ravel(np.concatenate([np.ravel(a) for a in actions[id(two)]])),
    )
    if not env.discrete:
        assert not np.array_equal(actions[id(one)][0], actions[id(other)][0])


@pytest.mark.slow  # two thousand steps a stage
@pytest.mark.parametrize(("direction", "least"), [(-1, 150), (1, 150)])
def test_a_cheetah_of_gymnasium_turns_round(direction, least, capsys):
    """The code of docs/deploying.md, as it stands there: one inner step gains hundreds in either direction."""
    pytest.importorskip("gymnasium.envs.mujoco.half_cheetah_v5")
    page = (pathlib.Path(__file__).parent.parent / "docs" / "deploying.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    assert code.count('"HalfCheetah-v5"), -1') == 1
    exec(code.replace('"HalfCheetah-v5"), -1', f'"HalfCheetah-v5"), {direction}'), {})
    before, after, _ = (float(line.split(":")[1]) for line in capsys.readouterr().out.strip().splitlines()[-3:])
    assert after - before > least


def test_an_episode_goes_on_in_the_next_piece():
    """Six steps in pieces of two: a cut knows the observation after it, and only the sixth step ends the episode."""
    env = toys.walk()
    algorithm = mrl.algorithms.self_tuning(env, episodes=3, adaptation_steps=1, horizon=2)
    learner = mrl.Learner(algorithm, algorithm.init(KEY).params)
    overs = []
    for step in range(6):
        assert not learner.full
        learner.act(np.full(1, step / 10))
        overs.append(learner.observe(1.0, next_observation=np.full(1, (step + 1) / 10)))
    assert overs == [False] * 5 + [True]
    assert learner.full
    data = learner._data
    np.testing.assert_array_equal(data.truncated, [[False, True], [False, True], [False, False]])
    np.testing.assert_allclose(data.next_observation[..., 0], [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], rtol=1e-6)
    learner.learn()
    assert learner.returns == [6.0]
    assert not learner.full


def test_the_next_act_says_what_a_step_led_to():
    algorithm = mrl.algorithms.maml(toys.walk(), **SIZES)
    learner = mrl.Learner(algorithm, algorithm.init(KEY).params)
    for step in range(3):
        learner.act([step])
        learner.observe(0.5)
    np.testing.assert_array_equal(learner._data.next_observation[0, :3, 0], [1, 2, 2])


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
    with pytest.raises(ValueError, match="observation is .* 256.*of dtype uint8"):
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
