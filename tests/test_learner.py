"""f_θ outside of the program: the same data give the φ of `adapt`, step by step."""

import pathlib

import jax
import numpy as np
import pytest

import metarl_jax as mrl
from tests import rows, toys

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


@pytest.mark.parametrize("name", toys.every_algorithm(["maml", "meta-sgd", "reptile", "rl2"]))
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
        {"surrogate": "likelihood_ratio", "average": "valid", "inner_lr": (0.2, 0.05)},
        rows.thorough({"baseline": "value_network"}),
        rows.thorough({"inner_optimizer": "adam", "inner_lr_beyond": "constant"}),
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
