"""Meta-gradients against exact values: full enumeration of a 3-armed bandit, the closed form of a Gaussian one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.inner import policy_gradient, sgd
from metarl_jax.types import Stage, Trajectory
from tests import rows, toys
from tests.finite import mean_of_draws

PULLS, RATE = 3, 0.7

# E_{D_0} of the path derivative of the post-update expected reward, by full enumeration in float64 (logits
# (0.3, −0.2, 0.1), rewards (1, 0.2, −0.5), three pulls, α = 0.7).
EXACT = {
    "plain": ("maml", {"surrogate": "score_function"}, (0.26833665, -0.04344665, -0.22489000)),
    "likelihood ratio": ("maml", {"surrogate": "likelihood_ratio"}, (0.30155856, -0.07231705, -0.22924152)),
    "first order": ("fomaml", {}, (0.29107726, -0.04735341, -0.24372385)),
    "promp": ("promp", {}, (0.30155856, -0.07231705, -0.22924152)),
    "trpo": ("maml-trpo", {}, (0.26833665, -0.04344665, -0.22489000)),
}
# The gradient of the post-update reward itself, score term of D_0 included: what the path derivative alone misses.
SAMPLED_UPDATE = np.array((0.30139517, -0.07253798, -0.22885719))
BIASED = {"plain", "first order"}


def make(name, **options):
    env = toys.bandit()
    settings = {"episodes": PULLS, "inner_lr": RATE, "policy": toys.bandit_policy(), "advantage": mrl.inner.returns()}
    return mrl.algorithms.make(name, env, **{**settings, **options})


# ProMP's first gradient is that of the likelihood ratio, and TRPO's the plain one.
@pytest.mark.parametrize("case", rows.by_default(EXACT, ["plain", "likelihood ratio", "first order"]))
def test_bandit_gradient_through_the_public_interface(case):
    name, options, exact = EXACT[case]
    mean, error = mean_of_draws(make(name, tasks=64, **options), 3000)
    assert (error < 0.008 * np.linalg.norm(exact)).all(), "too noisy to tell the estimators apart"
    np.testing.assert_array_less(np.abs(mean - exact), 4 * error)
    if case in BIASED:
        assert (np.abs(mean - SAMPLED_UPDATE) > 6 * error).any()


def stage_of(actions, logits):
    """A hand-made stage of one-step episodes [N, 1], collected by the policy `logits`."""
    reward = jnp.array(toys.BANDIT_REWARDS)[actions][:, None]
    actions = actions[:, None]
    shape = actions.shape
    trajectory = Trajectory(
        observation=jnp.zeros((*shape, 1)),
        action=actions,
        log_prob=jax.nn.log_softmax(logits)[actions],
        reward=reward,
        discount=jnp.zeros(shape),
        truncated=jnp.zeros(shape, bool),
        valid=jnp.ones(shape, bool),
        next_observation=jnp.zeros((*shape, 1)),
    )
    zeros = jnp.zeros(len(actions))
    return Stage(trajectory=trajectory, advantage=reward, params=logits, scale=jnp.ones(()), credit=zeros)


@pytest.mark.parametrize("case", ["plain", "likelihood ratio", "first order"])
def test_bandit_gradient_by_enumeration_of_all_data(case):
    """Σ_{D_0, D_1} p(D_0) p(D_1 | φ(D_0)) ∇loss over all 27 × 27 data sets, in float64: equal to eight digits."""
    _, options, exact = EXACT[case]
    with jax.enable_x64():
        policy = toys.bandit_policy()
        theta = jnp.array(toys.BANDIT_LOGITS)
        surrogate = mrl.inner.SURROGATES[options.get("surrogate", "score_function")]
        optimizer = mrl.inner.first_order(sgd(RATE)) if case == "first order" else sgd(RATE)
        parts = mrl.outer.Parts(
            env=toys.bandit(),
            policy=policy,
            adapter=policy_gradient(policy, surrogate, optimizer),
            advantage=toys.unscaled(mrl.inner.returns()),
            objective=mrl.outer.ratio(),
            trial=mrl.Trial(tasks=1, episodes=PULLS, horizon=1),
        )
        objective = mrl.outer.meta_objective(parts)
        pulls = jnp.array(list(itertools.product(range(3), repeat=PULLS)))

        def weighted(before, after):
            first = stage_of(before, theta)
            # The behaviour of stage 1 is φ(D_0), recomputed here by hand for logits: ∇ mean log π r.
            score = jax.nn.one_hot(before, 3) - jax.nn.softmax(theta)
            phi = theta + RATE * (score * jnp.array(toys.BANDIT_REWARDS)[before][:, None]).mean(0)
            second = stage_of(after, phi)
            data = jax.tree.map(lambda a, b: jnp.stack([a, b])[None], first, second)
            probability = jnp.exp(first.trajectory.log_prob.sum() + second.trajectory.log_prob.sum())
            return -probability * jax.grad(lambda t: objective.loss(t, data)[0])(theta)

        total = jax.jit(jax.vmap(jax.vmap(weighted, (None, 0)), (0, None)))(pulls, pulls).sum((0, 1))
    np.testing.assert_allclose(total, exact, atol=2e-8)


# J(θ) = E[−(a − g)²] after φ = θ + α E[ĝ]: with θ = 0.5, g = 2, α = 0.1 and σ = 1, φ = 0.8, the first-order gradient
# is −2(φ − g) = 2.4, and the true one has the factor 1 − 2α. Differentiating log π·A gives the factor 1 − α E[A]/σ²,
# which is 1 for centred rewards and 1 + 0.325 for the raw ones, E[r] = −(σ² + 1.5²) = −3.25.
GAUSSIAN = {
    "likelihood ratio": ("maml", "likelihood_ratio", 0.0, 2.4 * (1 - 0.2)),
    "first order": ("fomaml", "score_function", 0.0, 2.4),
    "plain, centred reward": ("maml", "score_function", 3.25, 2.4),
    "plain, raw reward": ("maml", "score_function", 0.0, 2.4 * 1.325),
}


@pytest.mark.parametrize("case", rows.by_default(GAUSSIAN, ["likelihood ratio", "plain, raw reward"]))
def test_gaussian_bandit(case):
    name, surrogate, offset, exact = GAUSSIAN[case]
    algorithm = mrl.algorithms.make(
        name,
        toys.gaussian_bandit(offset),
        tasks=8,
        episodes=4000,
        inner_lr=0.1,
        surrogate=surrogate,
        advantage=mrl.inner.returns(),
        policy=toys.gaussian_policy(),
    )
    mean, error = mean_of_draws(algorithm, 40)
    assert error[0] < 0.01
    # φ varies with the finite D_0: dφ/dθ and R'(φ) are correlated at order 1/N, below 0.003 at N = 4000.
    assert abs(mean[0] - exact) < 4 * error[0] + 0.003


@pytest.mark.parametrize(
    "name",
    ["dice", *map(rows.thorough, ["maml", "e-maml", "maml-trpo", "fomaml", "promp", "loaded-dice", "pretrain"])],
)
def test_zero_inner_rate_gives_the_plain_policy_gradient(name):
    rewards, probabilities = np.array(toys.BANDIT_REWARDS), np.asarray(jax.nn.softmax(jnp.array(toys.BANDIT_LOGITS)))
    exact = probabilities * (rewards - probabilities @ rewards)
    mean, error = mean_of_draws(make(name, tasks=64, inner_lr=0.0), 2000)
    np.testing.assert_array_less(np.abs(mean - exact), 4 * error)


def test_burn_in_zero_averages_the_stages():
    """Counting both stages gives the mean of the plain policy gradient and the post-update one."""
    both, _ = mean_of_draws(make("maml", tasks=16, burn_in=0), 500)
    after, _ = mean_of_draws(make("maml", tasks=16, burn_in=1), 500)
    before, _ = mean_of_draws(make("maml", tasks=16, adaptation_steps=0), 500)
    # The same keys draw the same first stage, so the identity holds draw by draw, not only on average.
    np.testing.assert_allclose(both, (before + after) / 2, atol=1e-6)


# The logits have no layers.
@pytest.mark.parametrize("name", sorted(set(mrl.algorithms.names()) - {"anil", "cavia", *toys.NO_STEP_FROM_THETA}))
def test_adapt_is_theta_plus_rate_times_policy_gradient(name):
    algorithm = make(name, adaptation_steps=2, inner_lr=(0.7, 0.2))
    theta = np.array(toys.BANDIT_LOGITS)
    start = algorithm.init(jax.random.key(0)).params
    out = algorithm.adapt(jax.random.key(9), start, jnp.array(toys.BANDIT_REWARDS))
    for stage, rate in ((0, 0.7), (1, 0.2)):
        actions = np.asarray(out.trajectory.action[stage, :, 0])
        probabilities = np.exp(theta) / np.exp(theta).sum()
        score = np.eye(3)[actions] - probabilities
        theta = theta + rate * (score * np.array(toys.BANDIT_REWARDS)[actions, None]).mean(0)
    np.testing.assert_allclose(out.params, theta, rtol=1e-5)
    np.testing.assert_allclose(out.returns, np.array(toys.BANDIT_REWARDS)[out.trajectory.action[..., 0]])
