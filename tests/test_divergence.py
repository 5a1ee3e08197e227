"""Simulations that diverge: they end in their own episode, and what is left is as if that episode had not been.

Estimators are in inner/test_void_episodes.py, credit in outer/test_credit.py, evaluation in test_evaluation.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.compose import build_parts
from metarl_jax.policies.likelihood import probability_ratio
from metarl_jax.rollout import rollout
from tests import rows, toys
from tests.fragile import AT_RESET, HORIZON, NEVER, Task, all_finite, fragile, reset_keys, take

# --- one rollout -----------------------------------------------------------------------------------------------------

EPISODES = 8


@pytest.fixture(scope="module")
def roll():
    """``(at [N], reward) → trajectory``: what breaks each of the episodes, by one program."""
    env = fragile(listed=EPISODES)
    policy = toys.small_policy(env)
    params, key = policy.init(jax.random.key(0)), jax.random.key(1)
    goal, keys = jnp.ones(1), reset_keys(key, EPISODES)
    run = jax.jit(lambda params, task: rollout(key, env, policy, params, task, EPISODES, HORIZON))

    def rolled(at, reward=False, params=params):
        return run(params, Task(goal, keys, jnp.asarray(at), jnp.array(0.0), jnp.array(reward)))

    rolled.params = params
    return rolled


@pytest.mark.parametrize("reward", [False, True])
def test_a_broken_episode_is_void_and_finite_and_its_neighbours_do_not_notice(roll, reward):
    whole = roll([NEVER] * EPISODES)
    assert not whole.void.any()
    data = roll([NEVER, AT_RESET, 0, 1, NEVER, 2, NEVER, NEVER], reward)
    np.testing.assert_array_equal(data.void, [False, True, True, True, False, True, False, False])
    assert not data.valid[data.void].any()
    assert not data.reward[data.void].any()
    assert all_finite(data)
    sound = np.flatnonzero(~data.void)
    jax.tree.map(np.testing.assert_array_equal, take(data, sound), take(whole, sound))
    for leaf in (data.observation, data.action, data.log_prob, data.next_observation):
        np.testing.assert_array_equal(leaf[data.void], np.broadcast_to(leaf[data.void, :1], leaf[data.void].shape))
    # The policy saw zeros where the reset was broken, and the reset elsewhere.
    assert (data.observation[1] == 0).all()
    np.testing.assert_array_equal(data.observation[[2, 3, 5], 0], whole.observation[[2, 3, 5], 0])


def test_what_breaks_after_the_end_breaks_nothing(roll):
    """Padding may diverge: an episode that has ended is not void."""
    whole = roll([NEVER] * EPISODES)
    data = roll([HORIZON - 1] * EPISODES)
    np.testing.assert_array_equal(data.void, whole.valid[:, -1])
    assert data.void.any()
    assert not data.void.all()
    assert all_finite(data)


def test_a_policy_that_fails_is_not_taken_for_a_simulation_that_does(roll):
    """φ = NaN must reach the metrics, not vanish as so many void episodes."""
    data = roll([NEVER] * EPISODES, params=jax.tree.map(lambda leaf: leaf * jnp.nan, roll.params))
    assert not data.void.any()
    assert np.isnan(data.reward).any()


# --- a batch of 256 environments -------------------------------------------------------------------------------------

TASKS, STAGES, BROKEN = 32, 2, 4
FEWER, HALF, NONE = slice(0, 4), 4, 5  # tasks that keep half their episodes, one that loses a stage, one that loses all
UNAFFECTED = slice(6, None)
VARIANTS = {
    "maml": (outer.ratio(), {"surrogate": "score_function"}),
    "promp": (outer.add(outer.clipped(), outer.inner_kl()), {"surrogate": "likelihood_ratio"}),
    "dice": (outer.ratio(), {"surrogate": "dice", "baseline": "leave_one_out"}),
}


def batch():
    """Keys [B], whole tasks, tasks of which some break, and which episodes do [B, S, N]: 26 and 32 of 256.

    They break at reset, in the first step or later.
    """
    keys = jax.random.split(jax.random.key(3), TASKS)
    random = np.random.default_rng(0)
    broken = np.zeros((TASKS, STAGES, EPISODES), bool)
    for b in range(FEWER.stop):
        for s in range(STAGES):
            broken[b, s, random.choice(EPISODES, BROKEN, replace=False)] = True
    broken[HALF, 0, :2] = broken[HALF, 1] = broken[NONE] = True
    at = np.where(broken, random.integers(AT_RESET, 3, broken.shape), NEVER)

    def of_stages(key):
        return jax.vmap(lambda s: reset_keys(jax.random.fold_in(key, s), EPISODES))(jnp.arange(STAGES))

    tasks = Task(
        jax.random.normal(jax.random.key(4), (TASKS, 1)),
        jax.vmap(of_stages)(keys).reshape(TASKS, -1, 2),
        jnp.asarray(at.reshape(TASKS, -1)),
        jnp.zeros(TASKS),
        jnp.arange(TASKS) % 3 == 2,
    )
    return keys, tasks.replace(at=jnp.full_like(tasks.at, NEVER)), tasks, broken


@pytest.fixture(scope="module", params=VARIANTS)
def trials(request):
    """What every task does to the meta-gradient, in a batch that is whole and in one that is not; one program."""
    objective, options = VARIANTS[request.param]
    sizes = {"tasks": TASKS, "episodes": EPISODES, "policy": {"hidden": (8,)}}
    parts = build_parts(fragile(listed=STAGES * EPISODES), objective=objective, **options, **sizes)
    theta = parts.adapter.init_meta(jax.random.key(0))
    moved = jax.tree.map(lambda leaf: leaf + 0.03, theta)  # where ratios differ from 1 and the KL from 0

    def contribution(data):
        def loss(theta):
            path = outer.replay(parts, theta, data)
            return parts.objective(parts.policy, path)[0], path.params

        (value, params), gradient = jax.value_and_grad(loss, has_aux=True)(moved)
        return {"φ": params, "loss": value, "gradient": gradient}

    def run(key, task):
        data = outer.collect(key, parts, theta, task)
        return data, contribution(data)

    keys, whole, tasks, broken = batch()
    program = jax.jit(jax.vmap(run))
    out = {"whole": program(keys, whole), "disturbed": program(keys, tasks)}
    assert program._cache_size() == 1
    return parts, moved, contribution, out, broken


def test_other_tasks_do_not_notice(trials):
    *_, out, broken = trials
    data = out["disturbed"][0]
    np.testing.assert_array_equal(data.trajectory.void, broken)
    assert broken.mean((0, 2)).min() > 0.1
    assert all_finite(out["disturbed"])
    jax.tree.map(np.testing.assert_array_equal, *(take(batch, UNAFFECTED) for batch in out.values()))
    for a, b in zip(*(jax.tree.leaves(contribution["gradient"]) for _, contribution in out.values()), strict=True):
        assert (np.asarray(a) != b)[: UNAFFECTED.start].any(tuple(range(1, a.ndim))).all()


def test_an_affected_task_is_one_with_fewer_episodes(trials):
    """φ, loss and gradient, advantages included, are those of the same stages with the void episodes deleted."""
    parts, _, contribution, out, broken = trials
    data, found = take(out["disturbed"], FEWER)
    kept = np.argsort(broken[FEWER], axis=-1, kind="stable")[..., : EPISODES - BROKEN]
    task, stage, _ = np.ogrid[FEWER, :STAGES, :1]

    def alone(data, trajectory):
        advantage, scale = jax.vmap(parts.advantage)(data.params, trajectory)
        return advantage, contribution(data.replace(trajectory=trajectory, advantage=advantage, scale=scale))

    advantage, expected = jax.jit(jax.vmap(alone))(data, take(data.trajectory, (task, stage, kept)))
    np.testing.assert_allclose(data.advantage[task, stage, kept], advantage, atol=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), found, expected)


def test_void_stages_contribute_nothing_and_the_mean_stays_one_over_all_tasks(trials):
    parts, moved, _, out, _ = trials
    data, found = out["disturbed"]
    assert found["loss"][NONE] == 0
    assert not any(leaf[NONE].any() for leaf in jax.tree.leaves(found["gradient"]))
    start, end = (take(found["φ"], (NONE, s)) for s in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, start, end)  # nothing was learned of nothing
    loss, metrics = jax.jit(outer.meta_objective(parts).loss)(moved, data)
    np.testing.assert_allclose(loss, found["loss"].sum() / TASKS, rtol=1e-4)
    # Ratios of the counted stage; a void episode's, which pads it, is no extreme.
    params, trajectory = (take(tree, (slice(None), 1)) for tree in (found["φ"], data.trajectory))
    ratios = jax.vmap(functools.partial(probability_ratio, parts.policy))(params, trajectory)[trajectory.valid]
    np.testing.assert_allclose([metrics["ratio_min"], metrics["ratio_max"]], [ratios.min(), ratios.max()], rtol=1e-5)


def test_metrics_and_returns_leave_void_episodes_out_and_count_them(trials):
    *_, out, broken = trials
    data = out["disturbed"][0]
    metrics = outer.describe(data.trajectory, data.params)
    assert metrics["diverged_episodes"] == broken.sum()
    assert outer.describe(out["whole"][0].trajectory, out["whole"][0].params)["diverged_episodes"] == 0
    returns = np.where(broken, np.nan, np.asarray(data.trajectory.reward).sum(-1))
    np.testing.assert_allclose(metrics["return"], np.nanmean(returns, (0, 2)), rtol=1e-5)
    assert metrics["environment_steps"] == data.trajectory.valid.sum()


# --- every algorithm -------------------------------------------------------------------------------------------------

MIXED, ALL = (0.0, 0.5, 1.0), (1.0, 1.0, 1.0)  # of void episodes in three tasks


@functools.cache
def key_that_draws(rates):
    """A key of `update` whose three tasks have exactly these rates, in any order."""
    sample = fragile(MIXED).sample_task

    @jax.jit
    def drawn(key):
        return jax.vmap(lambda i: sample(jax.random.split(jax.random.fold_in(key, i))[0]).rate)(jnp.arange(3))

    return next(key for key in map(jax.random.key, range(500)) if sorted(drawn(key).tolist()) == list(rates))


@pytest.mark.parametrize("name", toys.every_algorithm(["maml-trpo", "es-maml", "rl2"]))
def test_every_algorithm_survives(name):
    env = fragile(MIXED)
    sizes = {"tasks": 3, "episodes": 4, "adaptation_steps": 1}
    algorithm = mrl.algorithms.make(name, env, **sizes, policy={"hidden": (4,)})
    update, state = jax.jit(algorithm.update), algorithm.init(jax.random.key(0))
    after, metrics = update(key_that_draws(MIXED), state)
    assert all_finite((after, metrics))
    assert 2 * 4 < metrics["diverged_episodes"] < 2 * 2 * 2 * 4
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True))
    # Where nothing is left, nothing is learned, and no return was measured.
    after, metrics = update(key_that_draws(ALL), state)
    assert np.isnan(metrics["return"]).all()
    assert np.isnan(metrics["gain"])
    assert all_finite({name: value for name, value in metrics.items() if name not in ("return", "gain")})
    assert metrics["environment_steps"] == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_adapt_has_no_return_for_a_void_episode():
    algorithm = mrl.algorithms.make("maml", fragile(), episodes=4, policy={"hidden": (4,)})
    task = fragile((0.5,)).sample_task(jax.random.key(0))
    out = jax.jit(algorithm.adapt)(jax.random.key(1), algorithm.init(jax.random.key(0)).params, task)
    void = np.asarray(out.trajectory.void)
    assert void.any()
    assert not void.all(-1).any()
    np.testing.assert_array_equal(np.isnan(out.returns), void)
    np.testing.assert_allclose(out.returns[~void], out.trajectory.reward.sum(-1)[~void], rtol=1e-6)


def test_an_antithetic_pair_counts_where_both_its_trials_are_known():
    """Both stages count here; each episode breaks with probability ½, and the trials of a pair share their luck."""
    sizes = {"tasks": 8, "episodes": 2, "burn_in": 0, "policy": {"hidden": (4,)}}
    parts = build_parts(fragile((0.5,)), objective=outer.ratio(), **sizes)
    theta = parts.adapter.init_meta(jax.random.key(0))
    out = jax.jit(lambda theta: outer.antithetic(jax.random.key(1), parts, theta, 0.1))(theta)
    reward, void = np.asarray(out.data.trajectory.reward), np.asarray(out.data.trajectory.void)
    np.testing.assert_array_equal(out.known, ~void.all(-1).any((1, 2)))
    assert 1 < out.known.sum() < (~void.all((1, 2, 3))).sum()
    returns = np.where(void, np.nan, reward.sum(-1))[np.asarray(out.known)]
    np.testing.assert_allclose(out.fitness[out.known], np.nanmean(returns, -1).mean(-1) / HORIZON, rtol=1e-5)
    assert not out.fitness[~out.known].any()
    # Ranks are among the known, and an unknown pair has no difference.
    known = np.repeat(np.asarray(out.known)[:, None], 2, 1)
    ranks = outer.centred_ranks(out.fitness, jnp.asarray(known))
    np.testing.assert_allclose(ranks[out.known], outer.centred_ranks(out.fitness[out.known]), rtol=1e-6)
    assert not ranks[~out.known].any()


@pytest.mark.parametrize("name", ["promp", rows.thorough("maml")])
def test_what_grows_without_bound_is_stopped_before_its_powers_overflow(name):
    """Finite all the way, 1e10, 1e20, 1e30: the squares of features would be infinite, and θ NaN for every task."""

    def step(task, state, action):
        place = 1e10 * (state.observation + action)
        return toys.State(place, jnp.clip(-place.sum() * task[0], -5.0, 5.0), False, False)

    growing = mrl.TaskEnv(
        sample_task=lambda key: jax.random.normal(key, (1,)),
        reset=lambda key, task: toys.State(jax.random.normal(key, (1,)), 0.0, False, False),
        step=step,
        observation_size=1,
        action_size=1,
        horizon=3,
    )
    algorithm = mrl.algorithms.make(name, growing, tasks=3, episodes=4)
    start = algorithm.init(jax.random.key(0))
    after, metrics = jax.jit(algorithm.update)(jax.random.key(1), start)
    assert metrics["diverged_episodes"] == 3 * 4 * 2
    assert np.isnan(metrics.pop("return")).all()
    assert np.isnan(metrics.pop("gain"))
    for leaf in jax.tree.leaves((after.params, metrics)):
        assert np.isfinite(leaf).all()
