"""The exploration credit, and the property that matters: what it subtracts knows nothing of the episode it is for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.outer import exploration_credit
from metarl_jax.outer.exploration import minus_mean_of_others
from metarl_jax.types import Stage, Trajectory
from tests import rows, toys

TASKS, EPISODES, HORIZON = 7, 3, 5


def collected(seed=0, tasks=TASKS, episodes=EPISODES, stages=3):
    """Rewards, lengths and scales; a task's stages share its difficulty, so there is a slope to fit."""
    random = np.random.default_rng(seed)
    difficulty = 3 * random.normal(size=(tasks, 1, 1, 1))
    reward = random.normal(size=(tasks, stages, episodes, HORIZON)) + difficulty
    valid = np.arange(HORIZON) < random.integers(1, HORIZON + 1, (tasks, stages, episodes, 1))
    return reward, valid, random.uniform(1, 2, (tasks, stages))


def as_stage(reward, valid, scale, average="horizon"):
    fields = dict.fromkeys(Trajectory.__dataclass_fields__) | {"average": average}
    trajectory = Trajectory(**fields | {"reward": jnp.asarray(reward), "valid": jnp.asarray(valid)})
    return Stage(trajectory=trajectory, advantage=None, params=None, scale=jnp.asarray(scale), credit=None)


def credit(reward, valid, scale, burn_in, average="horizon", discount=1.0):
    tasks, stages, episodes, _ = reward.shape
    trial = mrl.Trial(tasks=tasks, episodes=episodes, adaptation_steps=stages - 1, burn_in=burn_in, horizon=HORIZON)
    with jax.enable_x64():
        compiled = jax.jit(lambda stage: exploration_credit(stage, trial, discount))
        return np.asarray(compiled(as_stage(reward, valid, scale, average)))


def later_returns(reward, valid, scale, burn_in, average="horizon", discount=1.0):
    """Returns [B, S, N] and Y [B (whose units), B, S] in NumPy, by the definition."""
    returns = (reward * valid * discount ** np.arange(HORIZON)).sum(-1)
    stages, every = reward.shape[1], np.arange(len(reward))
    later = np.empty((len(reward), len(reward), stages))
    for b in every:  # in units of the other tasks
        others = every != b if len(every) > 1 else every == b
        room = valid[others].sum(-1).mean((0, 2)) if average == "valid" else HORIZON
        per_step = returns.mean(-1) / (room * scale[others].mean(0))
        for k in range(stages):
            after = [s for s in range(stages) if s > k and s >= burn_in]
            later[b, :, k] = per_step[:, after].sum(1) / (stages - burn_in)
    return returns, later


def test_where_no_other_task_earns_anything_the_credit_stays_finite_in_size():
    """A sparse reward that one task has found: the advantages of the others are 0, and so would be their units."""
    reward, valid, scale = (np.zeros_like(x, float) for x in collected(tasks=20))
    valid, scale[:] = np.ones(valid.shape, bool), 1e-8
    reward[3, 1, 0, -1], scale[3, 1] = 1.0, 0.2
    found = credit(reward, valid, scale, 1)
    natural = (1.0 / EPISODES) / 2 / (HORIZON * 0.2)
    np.testing.assert_allclose(found[3, 0], 10 * natural, rtol=0.01)  # a tenth of its own units
    assert np.abs(found).max() < 20 * natural
    assert (found[3, 0] > 0).all()
    reward[3, 1, :, -1], scale[3, 1] = 1.0, 1e-4  # in every episode, so that its own advantages are noise
    assert np.abs(credit(reward, valid, scale, 1)).max() <= 100 / 2


@pytest.mark.parametrize(
    ("burn_in", "average", "discount"), [(0, "horizon", 1.0), (1, "valid", 1.0), (2, "horizon", 0.9)]
)
def test_against_a_fit_by_numpy_for_every_task_and_episode(burn_in, average, discount):
    data = collected()
    returns, later = later_returns(*data, burn_in, average, discount)
    found = credit(*data, burn_in, average, discount)
    assert found.shape == returns.shape
    for b in range(TASKS):
        others = [i for i in range(TASKS) if i != b]
        for k in range(3):
            x, y = returns[others, k].mean(-1), later[b, others, k]
            slope = np.cov(x, y, bias=True)[0, 1] / (x.var() + 0.1 * returns[others, k].var())
            for n in range(EPISODES):
                rest = np.delete(returns[b, k], n).mean()
                expected = later[b, b, k] - y.mean() - slope * (rest - x.mean())
                np.testing.assert_allclose(found[b, k, n], expected, atol=1e-9)
    np.testing.assert_allclose(found[:, -1], 0, atol=1e-12)  # nothing comes after the last stage


@pytest.mark.parametrize(("tasks", "episodes"), [(4, 3), (7, 1), (1, 3)])
def test_few_tasks_or_one_episode_leave_the_other_tasks_mean(tasks, episodes):
    data = collected(tasks=tasks, episodes=episodes)
    _, later = later_returns(*data, 2)
    own = np.stack([later[b, b] for b in range(tasks)])
    others = (later.sum(1) - own) / (tasks - 1) if tasks > 1 else 0
    np.testing.assert_allclose(credit(*data, 2), np.broadcast_to((own - others)[..., None], credit(*data, 2).shape))


def test_what_is_subtracted_is_independent_of_the_episode():
    """Another return of episode n in the stage before leaves b_kn as it was; everybody else's prediction moves."""
    reward, valid, scale = collected()
    valid[...] = True
    changed = reward.copy()
    changed[2, 0, 1] += 5.0
    before, after = credit(reward, valid, scale, 2), credit(changed, valid, scale, 2)
    np.testing.assert_allclose(after[2, 0, 1], before[2, 0, 1], atol=1e-12)
    assert (np.abs(after - before)[2, 0, [0, 2]] > 1e-3).all()
    assert (np.abs(after - before)[[0, 1, 3], 0] > 1e-6).any()


def test_a_tasks_own_later_lengths_and_scales_do_not_move_what_it_is_compared_with():
    """Y_b changes with its own later return alone; the prediction and the units are the others'."""
    reward, valid, scale = collected()
    longer, larger = valid.copy(), scale.copy()
    reward[2, 2] *= valid[2, 2]  # what the longer episodes add is nothing
    longer[2, 2] = True
    larger[2, 2] *= 3
    before = credit(reward, valid, scale, 2, "valid")
    with_longer = credit(reward, longer, scale, 2, "valid")
    np.testing.assert_allclose(with_longer[2, 0], before[2, 0], atol=1e-12)
    assert (np.abs(with_longer - before)[:2, 0] > 1e-6).all()
    np.testing.assert_allclose(credit(reward, valid, larger, 2, "valid")[2, 0], before[2, 0], atol=1e-12)


def test_telling_hard_tasks_from_easy_ones_removes_most_of_the_spread():
    reward, valid, scale = collected(tasks=40)
    valid[...] = True
    _, later = later_returns(reward, valid, scale, 2)
    assert credit(reward, valid, scale, 2)[:, 0].std() < 0.4 * later[0, :, 0].std()


def test_equal_returns_make_no_slope():
    """The other tasks' returns agree to the last digit but one, in float32; task 0's do not."""
    reward, valid, _ = collected(tasks=6, stages=2)
    valid[...], reward[1:, 0] = True, 0.1
    reward[1, 0, 0, 0] = np.nextafter(np.float32(0.1), 1)
    trial = mrl.Trial(tasks=6, episodes=EPISODES, horizon=HORIZON)
    found = exploration_credit(as_stage(reward.astype(np.float32), valid, np.ones((6, 2), np.float32)), trial)
    assert np.abs(found).max() < 10


def test_void_episodes_are_as_if_they_had_not_been():
    """One episode of every stage, another one in each, is void; the credits of the rest are those of the rest alone."""
    reward, valid, scale = collected(episodes=4)
    void = np.zeros(valid.shape[:3], bool)
    np.put_along_axis(void, np.random.default_rng(1).integers(4, size=(TASKS, 3, 1)), True, axis=2)
    valid = np.broadcast_to(valid, reward.shape)
    alone = [values[~void].reshape(TASKS, 3, 3, HORIZON) for values in (reward, valid)]
    found = credit(reward, valid & ~void[..., None], scale, 1)
    np.testing.assert_allclose(found[~void].reshape(TASKS, 3, 3), credit(*alone, scale, 1), atol=1e-9)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("tasks", "left"), [(TASKS, TASKS - 1), (5, 4), (2, 1)])
def test_a_task_whose_later_return_is_unknown_has_no_credit_and_is_no_example(tasks, left):
    """Nor are its units: a stage of void episodes alone has a scale that means nothing."""
    reward, valid, scale = collected(tasks=tasks)
    valid = np.array(np.broadcast_to(valid, reward.shape))
    valid[-1, 2], scale[-1, 2] = False, 1e-8
    found = credit(reward, valid, scale, 2)
    assert not found[-1].any()
    if left > 1:
        alone = credit(reward[:-1], valid[:-1], scale[:-1], 2)
        np.testing.assert_allclose(found[:-1], np.broadcast_to(alone, found[:-1].shape), atol=1e-9)
    else:
        assert not found.any()  # nothing to compare with


def test_the_only_episode_left_of_a_stage_is_predicted_by_the_other_tasks_mean():
    reward, valid, scale = collected()
    valid = np.array(np.broadcast_to(valid, reward.shape))
    valid[2, 0, 1:] = False
    found = credit(reward, valid, scale, 2)
    later = later_returns(reward, valid, scale, 2)[1]
    np.testing.assert_allclose(found[2, 0, 0], later[2, 2, 0] - np.delete(later[2, :, 0], 2).mean(), atol=1e-9)
    assert np.isfinite(found).all()


def test_void_episodes_alone_have_no_credit():
    reward, valid, scale = collected()
    for tasks in (TASKS, 1):
        with jax.debug_nans(True):  # not even on the way
            assert not credit(reward[:tasks], np.zeros_like(valid)[:tasks], scale[:tasks], 1).any()


# --- by influence ----------------------------------------------------------------------------------------------------


def test_influence_is_how_the_loss_changes_with_the_weight_of_an_episode():
    """Central differences of the loss after steps that weigh an episode more or less; void ones have no part."""
    env = toys.walk()
    with jax.enable_x64():
        parts = mrl.algorithms.build_parts(
            env, objective=mrl.outer.ratio(), tasks=2, episodes=4, adaptation_steps=2, burn_in=1, horizon=5,
            inner_lr=0.01, policy={"hidden": (4,)}, baseline="zero", normalized=False,
        )  # fmt: skip
        theta = parts.adapter.init_meta(jax.random.key(0))
        data = jax.jit(lambda key: mrl.outer.collect_tasks(key, parts, theta))(jax.random.key(1))
        valid = data.trajectory.valid.at[1, 0, 2].set(False)
        advantage = jnp.where(valid, data.advantage, 0)
        data = data.replace(trajectory=data.trajectory.replace(valid=valid), advantage=advantage)
        data = data.replace(credit=jnp.zeros(advantage.shape[:3]))
        found = jax.jit(lambda data: mrl.outer.CREDITS["influence"](parts, theta, data))(data)

        @jax.jit
        def loss(weights):
            def of_task(weights, data):
                weighed = data.replace(advantage=data.advantage * weights[..., None])
                path = mrl.outer.replay(parts, theta, weighed)
                return parts.objective(parts.policy, dataclasses.replace(path, data=data))[0]

            return jax.vmap(of_task)(weights, data)

        ones, effect = np.ones(data.credit.shape), np.zeros(data.credit.shape)
        for index in np.ndindex(ones.shape):
            up, down = ones.copy(), ones.copy()
            up[index], down[index] = 1 + 1e-5, 1 - 1e-5
            effect[index] = -(loss(up) - loss(down))[index[0]] / 2e-5
    sound = ~np.asarray(data.trajectory.void)
    for b, s, n in np.ndindex(effect.shape):
        others = [m for m in range(4) if m != n and sound[b, s, m]]
        expected = effect[b, s, n] - effect[b, s, others].mean() if sound[b, s, n] else 0.0
        np.testing.assert_allclose(found[b, s, n], expected, atol=1e-8)
    assert not np.allclose(found[:, :2], 0)
    np.testing.assert_allclose(found[:, 2], 0, atol=1e-12)  # no step learns from the last stage


def test_a_single_episode_is_credited_with_all_that_it_changed():
    values = jnp.array([[2.0], [3.0]])
    np.testing.assert_array_equal(minus_mean_of_others(values, jnp.array([[True], [False]])), [[2.0], [0.0]])


@pytest.mark.parametrize("name", ["promp", rows.thorough("e-maml"), rows.thorough("maml-trpo")])
def test_any_objective_takes_credit_by_influence(name):
    algorithm = mrl.algorithms.make(
        name,
        toys.walk(),
        tasks=2,
        episodes=3,
        horizon=5,
        credit=0.5,
        credit_estimator="influence",
        policy={"hidden": (4,)},
    )
    state, metrics = jax.jit(algorithm.update)(jax.random.key(1), algorithm.init(jax.random.key(0)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, metrics)))


def test_an_unknown_credit_is_refused():
    with pytest.raises(ValueError, match="credit_estimator 'influences': did you mean 'influence'"):
        mrl.algorithms.make("e-maml", toys.walk(), credit_estimator="influences")


@pytest.mark.parametrize(
    ("name", "message"), [("fomaml", "takes no derivative of its steps"), ("maml", "leave it out, or set credit too")]
)
def test_influence_that_cannot_be_had(name, message):
    credit = {"credit": True} if name == "fomaml" else {}
    with pytest.raises(ValueError, match=message):
        mrl.algorithms.make(name, toys.walk(), credit_estimator="influence", **credit)
