"""Identities of the two-phase assembly: isolation of tasks, padding, ratio 1, one f_θ for training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import inner, outer
from tests import toys

TASKS, EPISODES, STEPS = 4, 6, 2


def make_parts(objective=None, horizon=6, rate=0.1, **trial):
    env = toys.walk(horizon)
    policy = toys.small_policy(env)
    adapter = inner.policy_gradient(policy, inner.likelihood_ratio, inner.sgd(rate))
    sizes = {"tasks": TASKS, "episodes": EPISODES, "adaptation_steps": STEPS, "horizon": horizon, **trial}
    objective = outer.add(outer.ratio(), outer.inner_kl(0.1)) if objective is None else objective
    return outer.Parts(env, policy, adapter, toys.unscaled(inner.gae()), objective, mrl.Trial(**sizes))


def collect(parts, theta):
    return jax.jit(lambda key: outer.collect_tasks(key, parts, theta))(jax.random.key(1))


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def theta(parts):
    return parts.adapter.init_meta(jax.random.key(0))


@pytest.fixture(scope="module")
def data(parts, theta):
    return collect(parts, theta)


@pytest.fixture(scope="module")
def replay(parts):
    return jax.jit(jax.vmap(lambda theta, data: outer.replay(parts, theta, data).params, (None, 0)))


@pytest.fixture(scope="module")
def gradient(parts):
    return jax.jit(jax.grad(lambda theta, data: outer.meta_objective(parts).loss(theta, data)[0]))


def assert_trees(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


def identical(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def task(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def test_replay_retraces_the_collected_path(replay, theta, data):
    assert_trees(replay(theta, data), data.params, rtol=1e-4, atol=1e-6)


def test_every_episode_of_every_stage_and_task_has_a_start_of_its_own(data):
    starts = np.asarray(data.trajectory.observation)[..., 0, 0]
    assert starts.shape == (TASKS, STEPS + 1, EPISODES)
    assert len(np.unique(starts)) == starts.size


def test_the_first_parameters_are_theta_and_the_others_are_not(theta, data):
    identical(task(data.params, (0, 0)), theta)
    for stage in range(1, STEPS + 1):
        for leaf in jax.tree.leaves(data.params):
            assert (leaf[:, stage] != leaf[:, stage - 1]).any()


def test_tasks_are_isolated(replay, theta, data):
    """Changing task 2's data leaves every other φ bit-identical; task 2's own changes."""
    changed = data.replace(advantage=data.advantage.at[2].mul(-3.0))
    before, after = replay(theta, data), replay(theta, changed)
    for index in (0, 1, 3):
        identical(task(before, index), task(after, index))
    assert all((a[2, -1] != b[2, -1]).any() for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))


def test_the_inner_step_does_not_shrink_with_the_number_of_tasks(parts, theta, data, replay):
    """An inner loss averaged over tasks would make the step α/B."""
    alone = jax.jit(lambda d: outer.replay(parts, theta, d).params)(task(data, 1))
    assert_trees(task(replay(theta, data), 1), alone, rtol=1e-4, atol=1e-6)


def test_permuting_tasks_permutes_phi_and_keeps_the_gradient(replay, gradient, theta, data):
    order = jnp.array([2, 0, 3, 1])
    shuffled = jax.tree.map(lambda leaf: leaf[order], data)
    assert_trees(replay(theta, shuffled), jax.tree.map(lambda leaf: leaf[order], replay(theta, data)), rtol=1e-5)
    assert_trees(gradient(theta, shuffled), gradient(theta, data), rtol=1e-3, atol=1e-5)


def test_the_gradient_is_the_mean_over_parts_of_the_batch(gradient, theta, data):
    halves = [gradient(theta, jax.tree.map(lambda leaf, i=i: leaf[i : i + 2], data)) for i in (0, 2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    assert_trees(mean, gradient(theta, data), rtol=1e-3, atol=1e-5)


def test_ratio_is_one_and_kl_zero_at_collection(parts, theta, data):
    objective = outer.meta_objective(parts)
    _, metrics = jax.jit(objective.loss)(theta, data)
    np.testing.assert_allclose([metrics["ratio_min"], metrics["ratio_max"]], 1, atol=1e-4)
    np.testing.assert_allclose(metrics["inner_kl"], 0, atol=1e-6)
    np.testing.assert_allclose(jax.jit(objective.kl)(theta, data), 0, atol=1e-6)


def pad(data, extra):
    """The same stages with `extra` more steps of garbage, NaN included, after the horizon."""

    def lengthen(leaf):
        garbage = jnp.full((*leaf.shape[:3], extra, *leaf.shape[4:]), jnp.nan).astype(leaf.dtype)
        return jnp.concatenate([leaf, garbage], axis=3)

    per_step = {"observation", "action", "log_prob", "reward", "next_observation", "discount", "truncated"}
    fields = {name: jax.tree.map(lengthen, getattr(data.trajectory, name)) for name in per_step}
    valid = jnp.concatenate([data.trajectory.valid, jnp.zeros((*data.trajectory.valid.shape[:3], extra), bool)], axis=3)
    trajectory = data.trajectory.replace(**fields, valid=valid)
    return data.replace(trajectory=trajectory, advantage=lengthen(data.advantage))


def test_padding_changes_neither_phi_nor_the_gradient(replay, gradient, theta, data):
    """Of the mean over the steps taken; the horizon is a part of the other one."""
    data = data.replace(trajectory=data.trajectory.replace(average="valid"))
    padded = pad(data, 3)
    assert_trees(replay(theta, padded), replay(theta, data), rtol=1e-5, atol=1e-7)
    assert_trees(gradient(theta, padded), gradient(theta, data), rtol=1e-4, atol=1e-6)


def test_garbage_in_padding_changes_nothing_at_all(gradient, theta, data):
    valid = data.trajectory.valid
    assert not valid.all()
    poisoned = jnp.where(valid[..., None], data.trajectory.observation, jnp.nan)
    trajectory = data.trajectory.replace(observation=poisoned, reward=jnp.where(valid, data.trajectory.reward, jnp.nan))
    poisoned = data.replace(trajectory=trajectory, advantage=jnp.where(valid, data.advantage, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, gradient(theta, poisoned), gradient(theta, data))


def test_training_and_evaluation_adapt_alike(parts, theta, data):
    """`adapt` on a task's own key and task gives the φ and the returns that `collect_tasks` recorded."""
    adapt = jax.jit(lambda key, task: outer.adapt(key, parts, theta, task))
    for index in (0, 3):
        task_key, data_key = jax.random.split(jax.random.fold_in(jax.random.key(1), index))
        out = adapt(data_key, parts.env.sample_task(task_key))
        assert_trees(out.params, task(data.params, (index, -1)), rtol=1e-4, atol=1e-6)
        assert_trees(out.returns, data.trajectory.reward[index].sum(-1), rtol=1e-4, atol=1e-4)


def test_data_of_a_task_do_not_depend_on_how_many_there_are(parts, theta, data):
    fewer = collect(make_parts(tasks=2), theta)
    assert_trees(fewer.trajectory.action, data.trajectory.action[:2], rtol=1e-4, atol=1e-5)


def test_more_inner_steps_continue_the_same_trial(theta, data):
    """The first stages of a longer trial are those of the shorter: evaluation may go on where training stopped."""
    longer = collect(make_parts(adaptation_steps=3), theta)
    first = jax.tree.map(lambda leaf: leaf[:, : STEPS + 1], longer.params)
    assert_trees(first, data.params, rtol=1e-4, atol=1e-5)


def test_the_outer_loss_reads_the_counted_stages_only(theta):
    """At inner rate 0 every ratio is 1, so the loss is minus the counted stages' advantages over N·T."""
    data = collect(make_parts(rate=0.0), theta)
    # Normalised advantages have mean 0 at every stage, which could not tell the stages apart.
    data = data.replace(advantage=data.advantage + jnp.array([1.0, 10.0, 100.0])[:, None, None])
    for burn_in, counted in ((2, [2]), (1, [1, 2]), (0, [0, 1, 2])):
        parts = make_parts(outer.ratio(), rate=0.0, burn_in=burn_in)
        loss = jax.jit(outer.meta_objective(parts).loss)(theta, data)[0]
        expected = -np.where(data.trajectory.valid, data.advantage, 0)[:, counted].mean()
        np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_gradient_equals_finite_differences(theta):
    """Central differences in float64 of the whole path, second-order terms included."""
    with jax.enable_x64():
        parts = make_parts(rate=0.5)
        start = jax.tree.map(lambda leaf: leaf.astype(float), theta)
        data = collect(parts, start)
        flat, unravel = jax.flatten_util.ravel_pytree(start)
        loss = jax.jit(lambda x: outer.meta_objective(parts).loss(unravel(x), data)[0])
        # Off the collection point, where the ratios differ from 1 and the KL from 0.
        point = flat + 0.05 * np.random.default_rng(0).normal(size=flat.shape)
        direction = np.random.default_rng(1).normal(size=flat.shape)
        step = 1e-5
        numeric = (loss(point + step * direction) - loss(point - step * direction)) / (2 * step)
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(point) @ direction, numeric, rtol=1e-7)


def test_described_metrics(data):
    """Entropy is the mean of −log π over the steps taken, and the step's norm that of φ_{s+1} − φ_s over all leaves."""
    metrics = outer.describe(data.trajectory, data.params)
    log_prob, valid = np.asarray(data.trajectory.log_prob), np.asarray(data.trajectory.valid)
    assert not valid.all()
    entropy = [-log_prob[:, stage][valid[:, stage]].mean() for stage in range(STEPS + 1)]
    np.testing.assert_allclose(metrics["entropy"], entropy, rtol=1e-5)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(data.params)]
    squares = sum((np.diff(leaf, axis=1) ** 2).reshape(TASKS, STEPS, -1).sum(-1) for leaf in leaves)
    np.testing.assert_allclose(metrics["inner_step_norm"], np.sqrt(squares).mean(), rtol=1e-5)
    reward = np.asarray(data.trajectory.reward)
    np.testing.assert_allclose(metrics["return"], np.where(valid, reward, 0).sum(-1).mean((0, 2)), rtol=1e-5)
    assert metrics["environment_steps"] == valid.sum()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tasks": 0}, "tasks is 0"),
        ({"episodes": -1}, "episodes is -1"),
        ({"episodes": 2.0}, "episodes is 2.0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"tasks": True}, "tasks is True"),
        ({"adaptation_steps": -1}, "adaptation_steps is -1"),
        ({"adaptation_steps": 1, "burn_in": 2}, r"burn_in is 2; .* 0\.\.1"),
        ({"burn_in": -1}, "burn_in is -1"),
    ],
)
def test_sizes_of_a_trial(sizes, message):
    with pytest.raises(ValueError, match=message):
        mrl.Trial(**sizes)
