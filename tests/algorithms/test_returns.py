"""J(θ) is the expected return of an episode, however episodes end: a chain whose second step is often missing.

First by enumeration of all data, in float64 and through the assembly, for everything that an inner step may be; then
by draws through the public `gradient`, for what only whole meta-iterations have. Two tasks, whose episodes differ in
length and in what pays. Memories are in `test_rl2`.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax import inner, outer
from metarl_jax.compose import build_parts
from metarl_jax.types import Stage, Trajectory
from oracles import exact, expectations
from tests import finite, rows

DISCOUNT = {"discount": 0.9, "discount_states": True}
CHAINS = exact.chain(0.9), exact.chain(0.3, quit=0.2, second=(-0.6, 1.4))


def chains(rates, episodes, draws=128_000, **changes):
    return finite.Setting(CHAINS, rates, episodes, draws).with_problems(**changes)


# By enumeration.


def stage_of(episodes, parts, members, params):
    """A stage of the episodes number `members` [N], collected with φ."""
    states, actions, taken, reward = (leaf[members] for leaf in episodes[:4])
    observation = jax.nn.one_hot(states, parts.env.observation_size)
    trajectory = Trajectory(
        observation=observation,
        action=actions,
        log_prob=jax.vmap(jax.vmap(lambda o, a: parts.policy.apply(params, o).log_prob(a)))(observation, actions),
        reward=reward,
        # Nothing that is read depends on how a last step ended.
        discount=jnp.ones(taken.shape),
        truncated=jnp.zeros(taken.shape, bool),
        valid=taken,
        next_observation=observation,
        average=parts.average,
    )
    advantage, scale = parts.advantage(params, trajectory)
    return Stage(trajectory, advantage, params, scale, jnp.zeros(len(members)))


def mean_over_all_data(setting, parts, theta):
    """E[−∇ loss], and E[∇_θ of the mean over the counted stages of R(φ_s(θ))] at fixed odds of data, over all tasks."""
    trial, problems = parts.trial, setting.problems
    every = [exact.all_episodes(problem) for problem in problems]
    sets = np.array(list(itertools.product(range(len(every[0].chance)), repeat=trial.episodes)))
    trials = sets[np.array(list(itertools.product(range(len(sets)), repeat=trial.stages)))]  # [all, S, N]
    mdps = [(problem.transition, problem.reward) for problem in problems]
    tasks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(every, mdps, strict=True))

    def one(task, members):
        episodes, (transition, reward) = task
        problem = dataclasses.replace(problems[0], transition=transition, reward=reward)
        fast, stages, odds = parts.adapter.init(theta), [], 1.0
        for index in range(trial.stages):
            stages.append(stage_of(episodes, parts, members[index], parts.adapter.params(theta, fast)))
            trajectory, advantage = stages[-1].trajectory, stages[-1].advantage
            log_prob = jnp.where(trajectory.valid, trajectory.log_prob, 0).sum()
            odds = odds * episodes.chance[members[index]].prod() * jnp.exp(log_prob)
            fast = parts.adapter.learn(theta, fast, trajectory, advantage)
        data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages)

        def gain(theta):
            return -parts.objective(parts.policy, outer.replay(parts, theta, data))[0]

        def mean_return(phi):
            seen = jnp.eye(parts.env.observation_size)
            return exact._mean_return(problem, jax.vmap(lambda o: parts.policy.apply(phi, o).logits)(seen))

        def wanted(theta):
            return jax.vmap(mean_return)(outer.replay(parts, theta, data).counted.params).mean()

        gradients = jax.grad(gain)(theta), jax.grad(wanted)(theta)
        return jax.tree.map(lambda leaf: jax.lax.stop_gradient(odds) * leaf, gradients)

    def total(tasks, trials):
        all_of_all = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(tasks, trials)
        return jax.tree.map(lambda leaf: leaf.sum(1).mean(0), all_of_all)

    return jax.jit(total, compiler_options={"xla_backend_optimization_level": 0})(tasks, jnp.asarray(trials))


def rule_parts(env, policy, sizes):
    """A learned rule, of random θ, over agents with a tabular policy."""
    agent = inner.learned_rule(env, policy, rule_size=3, prediction_size=2, discount=0.9, sizes={"hidden": ()})
    parts = build_parts(env, objective=outer.ratio(), policy=agent.policy, **sizes)
    return parts._replace(adapter=inner.lpg(agent, inner.sgd(1.0), 0.5))


PLAIN = {"surrogate": "score_function"}
# What an inner step is, N, L, burn-in, and the estimator's name in `oracles.expectations`.
ENUMERATED = {
    "plain": (PLAIN, 1, 2, None, "plain"),
    "plain, two episodes": (PLAIN, 2, 1, 0, "plain"),
    "first order": ({"inner_optimizer": lambda rate: inner.first_order(inner.sgd(rate))}, 2, 1, 0, "first_order"),
    "likelihood ratio": ({"surrogate": "likelihood_ratio"}, 2, 1, None, "likelihood_ratio"),
    "dice": ({"surrogate": "dice"}, 1, 2, 0, "dice"),
    "loaded dice": ({"surrogate": inner.loaded_dice(0.5)}, 2, 1, None, "loaded_dice"),
    "learned rates": ({"inner_optimizer": "parameter_rates"}, 1, 2, 0, None),
    "context": ({"fast_parameters": "context", "policy": "context"}, 2, 1, 0, None),
    "rule": ("rule", 1, 1, 1, None),
}


@pytest.mark.parametrize(
    "discounted", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["undiscounted", "discounted"]
)
@pytest.mark.parametrize("case", ENUMERATED)
def test_by_enumeration_the_outer_loss_has_the_returns_gradient_along_the_path(case, discounted):
    options, episodes, steps, burn_in, estimator = ENUMERATED[case]
    rates = (1.0, 0.6)[:steps]
    discount = DISCOUNT if discounted else {}
    setting = chains(rates, episodes, **discount)
    sizes = {"tasks": 1, "episodes": episodes, "adaptation_steps": steps, "burn_in": burn_in, "inner_lr": rates}
    sizes |= {"advantage": "returns"} | discount
    with jax.enable_x64():
        env, policy = finite.environment(*CHAINS), finite.logits_policy(setting.logits)
        if options == "rule":
            parts = rule_parts(env, policy, sizes)
        else:
            own = options | {
                "policy": finite.split_policy(setting.logits, "context") if "policy" in options else policy
            }
            parts = build_parts(env, objective=outer.ratio(), **sizes, **own)
        theta = parts.adapter.init_meta(jax.random.key(1))
        if options == "rule":  # its last layer starts at 0
            theta = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(2), leaf.shape), theta)
        found, wanted = jax.tree.map(np.asarray, mean_over_all_data(setting, parts, theta))
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 1e-4
    if estimator is not None:
        expected = setting.exact(expectations.path_derivative, estimator, burn_in, 0.5)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_mean_over_the_steps_taken_is_the_gradient_of_no_return():
    """Quitting pays 0.6, staying 0.5 twice, so the gradient of the return at even odds is 0.1 for staying.

    With one episode to a batch, Σ_t A_t g_t is divided by its own length: what it means to stay is halved, and the
    estimator's mean points to quitting, by (0.6 − 1.0/2)/2 · ½.
    """
    logits = np.zeros((2, 2))
    stay = dataclasses.replace(exact.chain(1.0, quit=0.6, second=(0.5, 0.5)), logits=logits)
    setting = finite.Setting((stay,), (), 1)
    with jax.enable_x64():
        policy = finite.logits_policy(logits)
        found = {}
        for average in ("horizon", "valid"):
            sizes = {"tasks": 1, "episodes": 1, "adaptation_steps": 0, "advantage": "returns", "average": average}
            parts = build_parts(finite.environment(stay), objective=outer.ratio(), policy=policy, **sizes)
            found[average] = np.asarray(mean_over_all_data(setting, parts, jnp.asarray(logits))[0])
    np.testing.assert_allclose(2 * found["horizon"][0], [-0.1, 0.1], atol=1e-12)
    np.testing.assert_allclose(found["horizon"], exact.return_gradient(stay, logits), atol=1e-12)
    np.testing.assert_allclose(found["valid"][0], [0.025, -0.025], atol=1e-12)


# By draws.

# Name, rates, N, trials, options, whether discounted, and what its mean is to be.
DRAWN = {
    "plain, 20 episodes": ("maml", (1.0,), 20, 24_000, {}, False, (expectations.path_derivative, "plain")),
    "likelihood ratio, 20 episodes, two steps": (
        "promp", (1.0, 0.6), 20, 16_000, {"burn_in": 0}, False, (expectations.path_derivative, "likelihood_ratio", 0),
    ),
    "credit, one episode, two steps": (
        "e-maml", (1.0, 0.6), 1, 128_000, {"burn_in": 0}, False, (exact.sampled_gradient, 0),
    ),
    "credit, 20 episodes": ("e-maml", (1.0,), 20, 96_000, {}, False, (exact.sampled_gradient,)),
    "credit, discounted": ("e-maml", (1.0, 0.6), 2, 128_000, {}, True, (exact.sampled_gradient,)),
    "es, discounted": ("es-maml", (1.0,), 2, 768_000, {"sigma": 0.3}, True, (exact.smoothed_gradient, 0.3)),
    "reptile, discounted": ("reptile", (1.0, 0.6), 2, 128_000, {}, True, (expectations.mean_shift,)),
    "pretrain": ("pretrain", (), 1, 256_000, {}, False, (expectations.path_derivative, "plain")),
}  # fmt: skip


# Without a discount the estimators' own expectations are in `test_estimators`.
@pytest.mark.parametrize("case", rows.by_default(DRAWN, ["credit, discounted", "es, discounted"]))
def test_by_draws_through_the_public_gradient(case):
    name, rates, episodes, draws, options, discounted, (function, *arguments) = DRAWN[case]
    setting = chains(rates, episodes, draws, **(DISCOUNT if discounted else {}))
    if discounted:
        options = options | {"advantage": mrl.inner.returns(0.9), "discount_states": True}
    mean, error = finite.mean_gradient(name, setting, **options)
    finite.assert_agrees(mean, error, setting.exact(function, *arguments))


def test_without_discounted_states_a_discount_has_no_objective():
    """Its mean is the usual estimator's, and not the gradient of the discounted return."""
    setting = chains((), 2, discount=0.5)
    mean, error = finite.mean_gradient("maml", setting, advantage="returns", discount=0.5)
    finite.assert_agrees(mean, error, setting.exact(expectations.path_derivative, "plain"))
    finite.assert_differs(mean, error, setting.exact(exact.sampled_gradient))


def test_a_discount_is_refused_where_it_is_not_known():
    make = mrl.algorithms.make
    env = finite.environment(*CHAINS)
    with pytest.raises(ValueError, match="advantage is a function whose γ is unknown; give it an attribute `discount`"):
        make("maml", env, advantage=inner.reward_to_go, discount_states=True)
    with pytest.raises(ValueError, match="pieces of episodes, which do not know their time t"):
        make("lpg", env, discount_states=True)
    with pytest.raises(ValueError, match="discount_states is 'yes'; it must be True or False"):
        make("maml", env, discount_states="yes")
    with pytest.raises(ValueError, match="unknown average 'vald': did you mean 'valid'"):
        make("rl2", env, average="vald")
