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


def test_fewer_episodes_than_a_stage_has_room_for():
    """One episode of room for three is the step of an algorithm of one episode."""
    env = toys.walk()
    roomy, exact = (mrl.algorithms.maml(env, tasks=2, episodes=n, baseline="zero", normalized=False) for n in (3, 1))
    theta = jax.jit(exact.init)(KEY).params
    expected = jax.jit(exact.adapt)(KEY, theta, env.sample_task(KEY))
    learner = mrl.Learner(roomy, theta)
    first = jax.tree.map(lambda leaf: leaf[:1], expected.trajectory)
    replay(learner, first, stages=1)
    close(learner.params, expected.params)


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
    "nothing seen": (lambda x: x.learn(), "nothing to learn from"),
    "in the middle": (lambda x: (x.act([0.0]), x.observe(0.0), x.learn()), "an episode is running"),
    "before the outcome": (lambda x: (x.act([0.0]), x.learn()), "an episode is running"),
    "a full stage": (
        lambda x: [(x.act([0.0]), x.observe(0.0, terminated=True)) for _ in range(4)],
        r"the stage is full.*call learn\(\)",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_told(case):
    algorithm = mrl.algorithms.maml(toys.walk(), **SIZES)
    misuse, message = MISUSE[case]
    with pytest.raises(ValueError, match=message):
        misuse(mrl.Learner(algorithm, algorithm.init(KEY).params))


def test_what_is_no_algorithm_is_refused():
    algorithm = mrl.algorithms.maml(toys.walk(), **SIZES)
    state = algorithm.init(KEY)
    with pytest.raises(ValueError, match="does not say how to act"):
        mrl.Learner(algorithm._replace(online=None), state.params)
    with pytest.raises(ValueError, match="pass its params"):
        mrl.Learner(algorithm, state)
    rl2 = mrl.algorithms.rl2(toys.bandit(), tasks=2)
    learner = mrl.Learner(rl2, rl2.init(KEY).params)
    learner.act([0.0])
    with pytest.raises(ValueError, match=r"action is 3; it must lie in 0\.\.2"):
        learner.observe(0.0, action=3)
