"""Algorithms that are one and the same where theory says so; each holds draw by draw, from the same key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.base import InnerOptimizer
from metarl_jax.compose import assemble, build_parts
from tests import rows, toys

SIZES = {"tasks": 3, "episodes": 4, "adaptation_steps": 2, "policy": {"hidden": (8,)}}
KEY = jax.random.key(1)


RETURNS = mrl.inner.returns()
WALK, GAUSSIAN = toys.walk(), toys.gaussian_bandit()
# With the objects of the question, which it names by their addresses: no others may have these later.
_DONE = {}


def gradient(name, env=WALK, **options):
    """The public gradient, and θ, of a fresh algorithm; asked for twice, it is computed once."""
    question = (name, id(env), repr(sorted(options.items())))
    if question not in _DONE:
        algorithm = mrl.algorithms.make(name, env, **{**SIZES, **options})
        theta = algorithm.init(jax.random.key(0)).params
        _DONE[question] = jax.jit(algorithm.gradient)(KEY, theta)[0], theta, (env, options)
    return _DONE[question][:2]


def assert_equal(left, right, rtol=2e-4, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), left, right)


@pytest.fixture(scope="module")
def maml():
    return gradient("maml")[0]


@pytest.mark.parametrize("name", ["meta-curvature", rows.thorough("meta-sgd")])
def test_learned_updates_start_as_maml(name, maml):
    found, theta = gradient(name)
    assert_equal(found.policy, maml)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(found.inner)), "every learned leaf has a gradient"
    assert jax.tree.structure(found.inner) == jax.tree.structure(theta.inner)


def test_anil_whose_head_is_everything_is_maml(maml):
    assert_equal(gradient("anil", policy={"hidden": ()})[0], gradient("maml", policy={"hidden": ()})[0])
    everything = lambda params: jax.tree.map(lambda _: True, params)  # noqa: E731
    assert_equal(gradient("anil", fast_parameters=everything)[0], maml)


def test_anil_moves_the_head_and_nothing_else():
    env = toys.walk()
    algorithm = mrl.algorithms.make("anil", env, **SIZES)
    theta = algorithm.init(jax.random.key(0)).params
    out = jax.jit(algorithm.adapt)(KEY, theta, env.sample_task(KEY))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), out.params, theta)
    assert moved == {
        "network": {"Dense_0": {"kernel": False, "bias": False}, "Dense_1": {"kernel": True, "bias": True}},
        "log_std": True,
    }


def test_cavia_moves_the_context_and_its_gradient_reaches_every_leaf():
    env = toys.walk()
    algorithm = mrl.algorithms.make("cavia", env, **SIZES, context_size=3)
    theta = algorithm.init(jax.random.key(0)).params
    out = jax.jit(algorithm.adapt)(KEY, theta, env.sample_task(KEY))
    for name, part in theta.items():
        moved = any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (out.params[name], part)), strict=True))
        assert moved == (name == "context")
    found, _ = gradient("cavia", context_size=3)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(found))
    weights_of_context = found["network"]["Dense_0"]["kernel"][env.observation_size :]
    assert (weights_of_context != 0).all(), "the adapted context feeds the first layer"


@pytest.mark.slow
def test_loaded_dice_at_the_ends_of_lambda():
    for advantage in (RETURNS, "gae"):
        dice = gradient("dice", advantage=advantage)[0]
        ratio = gradient("maml", surrogate="likelihood_ratio", advantage=advantage)[0]
        assert_equal(gradient("loaded-dice", dice_lambda=1.0, advantage=advantage)[0], dice)
        assert_equal(gradient("loaded-dice", dice_lambda=0.0, advantage=advantage)[0], ratio)
        between = gradient("loaded-dice", dice_lambda=0.5, advantage=advantage)[0]
        assert not np.allclose(between["log_std"], dice["log_std"], rtol=1e-3)
        assert not np.allclose(between["log_std"], ratio["log_std"], rtol=1e-3)


def test_dice_of_one_step_episodes_is_the_likelihood_ratio():
    assert_equal(gradient("dice", GAUSSIAN)[0], gradient("maml", GAUSSIAN, surrogate="likelihood_ratio")[0])


def test_first_order_is_maml_behind_a_stop_gradient(maml):
    stopped = lambda rate: InnerOptimizer(  # noqa: E731
        lambda params: (),
        lambda g, state, params, learned=(): (
            jax.tree.map(lambda p, d: p - rate * jax.lax.stop_gradient(d), params, g),
            state,
        ),
    )
    found = gradient("fomaml")[0]
    assert_equal(found, gradient("maml", inner_optimizer=stopped)[0])
    assert not np.allclose(found["log_std"], maml["log_std"], rtol=1e-3)


def test_tmaml_without_its_value_network_is_dice():
    assert_equal(gradient("tmaml", advantage=RETURNS)[0], gradient("dice", advantage=RETURNS)[0])
    assert_equal(gradient("tmaml", baseline="linear_feature")[0], gradient("dice")[0])


def test_e_maml_is_maml_with_credit_on(maml):
    assert_equal(gradient("e-maml", credit=False)[0], maml)
    assert_equal(gradient("e-maml")[0], gradient("maml", credit=True)[0])
    half, full = gradient("maml", credit=0.5)[0], gradient("maml", credit=1.0)[0]
    assert_equal(jax.tree.map(lambda a, b: (a + b) / 2, maml, full), half, atol=1e-5)


@pytest.mark.parametrize("name", ["maml-trpo", rows.thorough("promp")])
def test_credit_is_one_option_apart_for_any_outer_step(name):
    without, with_credit = gradient(name)[0], gradient(name, credit=True)[0]
    assert not np.allclose(without["log_std"], with_credit["log_std"], rtol=1e-2)


def test_reptile_of_one_step_is_the_plain_policy_gradient_times_the_rate():
    """E[φ_1 − θ] = α E[ĝ(θ)]: the same draws as MAML without any adaptation, whose stage 0 is this data."""
    reptile = gradient("reptile", adaptation_steps=1, inner_lr=0.1)[0]
    plain = gradient("maml", adaptation_steps=0)[0]
    assert_equal(reptile, jax.tree.map(lambda g: 0.1 * g, plain))


@pytest.mark.thorough
def test_reptile_of_two_steps_leans_towards_first_order_maml():
    """Reptile's second step is FOMAML's gradient after one: φ_2 − φ_1 = α ∇(φ_1; D_1), the derivative left out."""
    two = gradient("reptile", adaptation_steps=2, inner_lr=0.1)[0]
    one = gradient("reptile", adaptation_steps=1, inner_lr=0.1)[0]
    fomaml = gradient("fomaml", adaptation_steps=1, inner_lr=0.1)[0]
    assert_equal(jax.tree.map(lambda a, b: (a - b) / 0.1, two, one), fomaml, rtol=1e-3, atol=1e-5)


def test_pretrain_counts_all_its_data_and_adapts_like_maml(maml):
    env = toys.walk()
    pretrain, adapted = (mrl.algorithms.make(name, env, **SIZES) for name in ("pretrain", "maml"))
    theta = pretrain.init(jax.random.key(0)).params
    task = env.sample_task(KEY)
    assert_equal(jax.jit(pretrain.adapt)(KEY, theta, task), jax.jit(adapted.adapt)(KEY, theta, task))
    assert_equal(gradient("pretrain")[0], gradient("maml", inner_lr=0.0, burn_in=0)[0])


def test_std_rate_is_its_own():
    env = toys.walk()

    def adapted(**options):
        algorithm = mrl.algorithms.make("maml", env, **SIZES | {"adaptation_steps": 1}, **options)
        theta = algorithm.init(jax.random.key(0)).params
        return jax.jit(algorithm.adapt)(KEY, theta, env.sample_task(KEY)).params, theta

    (both, theta), (slow, _), (none, _) = adapted(), adapted(std_lr=0.01), adapted(std_lr=0.0)
    np.testing.assert_array_equal(none["log_std"], theta["log_std"])
    np.testing.assert_allclose(
        slow["log_std"] - theta["log_std"], 0.1 * (both["log_std"] - theta["log_std"]), rtol=1e-3
    )
    assert_equal(slow["network"], both["network"])


def test_es_maml_of_a_linear_objective():
    """Antithetic pairs with shared draws: F(θ + σε) − F(θ − σε) over 2σ is ⟨M, ε⟩ exactly where F is linear in θ.

    So an estimate is the mean over tasks of ⟨M, ε⟩ ε, of mean E[M] = (1, −2, 0) for M ~ N((1, −2, 0), I).
    """
    center = jnp.array([1.0, -2.0, 0.0])
    env = mrl.TaskEnv(
        sample_task=lambda key: center + jax.random.normal(key, (3,)),
        reset=lambda key, task: toys.State(jnp.zeros(3), 0.0, False, False),
        step=lambda task, state, action: toys.State(state.observation, task @ action, True, False),
        observation_size=3,
        action_size=3,
        horizon=1,
    )
    policy = mrl.Policy(
        init=lambda key: jnp.zeros(3), apply=lambda theta, _: mrl.policies.DiagonalGaussian(theta, jnp.zeros(3))
    )
    algorithm = mrl.algorithms.make("es-maml", env, policy=policy, tasks=50, episodes=2, inner_lr=0.0, sigma=0.3)
    found, _ = jax.jit(jax.vmap(algorithm.gradient, (0, None)))(jax.random.split(KEY, 400), jnp.zeros(3))
    # Var(⟨M, ε⟩ ε_i) = Σ_j E[M_j²] E[ε_j² ε_i²] − E[M_i]², with E[M²] = (2, 5, 1) and E[ε_j² ε_i²] = 1 + 2 (i = j).
    deviation = np.sqrt((8 + 2 * np.array([2, 5, 1]) - np.array([1, 4, 0])) / 50)
    np.testing.assert_allclose(found.std(0), deviation, rtol=0.15)
    np.testing.assert_array_less(np.abs(found.mean(0) - center), 4 * deviation / np.sqrt(400))


def test_ranks_of_equal_values_are_equal():
    np.testing.assert_allclose(mrl.outer.centred_ranks(jnp.array([[3.0, 9.0], [3.0, 1.0]])), [[0, 0.5], [0, -0.5]])
    np.testing.assert_array_equal(mrl.outer.centred_ranks(jnp.zeros((3, 2))), np.zeros((3, 2)))


def test_a_std_that_is_not_learned_is_no_parameter():
    for name in ("es-maml", "maml"):
        algorithm = mrl.algorithms.make(name, WALK, policy={"learn_std": False, "init_std": 0.5})
        assert "log_std" not in jax.eval_shape(algorithm.init, jax.random.key(0)).params


def test_an_estimator_by_name_and_as_an_object_are_one_also_for_the_credit():
    """Which is in units of the advantages, so it has to know their divisor."""
    baseline = mrl.inner.linear_time()
    by_name, _ = gradient("e-maml", discount=0.9, lambda_=0.8, baseline=baseline)
    as_object, _ = gradient("e-maml", advantage=mrl.inner.gae(0.9, 0.8, baseline))
    assert_equal(as_object, by_name)


def test_an_estimator_of_the_users_own_is_called_whatever_it_is_made_of():
    class Doubled(mrl.inner.Estimator):
        def __call__(self, trajectory):
            return 2 * super().__call__(trajectory)

    gae = mrl.inner.gae(0.9, 0.8, mrl.inner.linear_time())
    doubled = functools.wraps(gae)(lambda trajectory: 2 * gae(trajectory))
    of_class, _ = gradient("maml", advantage=Doubled(gae.function, gae.discount, gae.scaled))
    of_function, _ = gradient("maml", advantage=doubled)
    plain, _ = gradient("maml", advantage=gae)
    assert_equal(of_class, of_function)
    with pytest.raises(AssertionError):
        assert_equal(of_class, plain)


def network_alone(params):
    return jax.tree.map(lambda label: label == "head", mrl.policies.mlp(WALK).labels(params))


REFUSED = [
    (
        "cavia",
        {"policy": toys.small_policy(toys.walk())},
        "labels none of its parameters so; make it with context_size",
    ),
    ("anil", {"policy": toys.gaussian_policy()}, "labels none of its parameters so; use a policy with labels"),
    ("maml", {"fast_parameters": "haed"}, "unknown fast_parameters 'haed': did you mean 'head'"),
    ("e-maml", {"adaptation_steps": 0}, "with adaptation_steps=0 there is one stage only; leave credit out"),
    ("promp", {"credit": True, "adaptation_steps": 0, "burn_in": 0}, "there is one stage only"),
    ("maml", {"credit": -1.0}, "credit is -1.0; it must be a number of at least 0"),
    ("reptile", {"credit": True}, "credit is .*part of an outer loss, which reptile does not have"),
    ("reptile", {"inner_optimizer": "curvature"}, "choose inner_optimizer='sgd'"),
    ("pretrain", {"inner_optimizer": "parameter_rates"}, "choose inner_optimizer='sgd'"),
    ("pretrain", {"credit": True}, "credit is .*pretrain trains without"),
    ("pretrain", {"burn_in": 0}, "burn_in is 0, and in pretrain every stage counts"),
    ("es-maml", {"credit": True}, "leave credit out"),
    ("es-maml", {"sigma": 0.0}, "sigma is 0.0"),
    ("meta-sgd", {"inner_lr": 0.0}, "inner_lr is 0.0; it must be a positive"),
    ("maml", {"inner_optimizer": "adma"}, "unknown inner_optimizer 'adma': did you mean 'adam'"),
    ("loaded-dice", {"dice_lambda": 1.5}, r"dice_lambda is 1.5; it must lie in \[0, 1\]"),
    ("maml", {"advantage": RETURNS, "baseline": "zero"}, r"takes no \['baseline'\]"),
    (
        "maml-trpo",
        {"baseline": "value_network"},
        "cannot move a value network; choose another baseline, such as previous_fit",
    ),
    ("maml", {"baseline": "linear"}, "unknown baseline 'linear': did you mean 'linear_"),
    ("maml", {"baseline": "leave_one_out", "episodes": 1}, "episodes is 1; take at least 2"),
    ("maml", {"normalized": "no"}, "normalized is 'no'; it must be True or False"),
    ("maml", {"remat": "yes"}, "remat is 'yes'; it must be True or False"),
    ("es-maml", {"rank_shaping": 0}, "rank_shaping is 0; it must be True or False"),
    ("es-maml", {"baseline": "value_network"}, "es-maml has no loss to learn a critic with"),
    ("reptile", {"baseline": "value_network"}, "give it inner_weight > 0"),
    ("reptile", {"burn_in": 0}, "burn_in is 0, and that is part of an outer loss"),
    ("reptile", {"adaptation_steps": 0}, "adaptation_steps is 0"),
    ("reptile", {"fast_parameters": "head"}, "leave fast_parameters out"),
    ("maml", {"fast_parameters": lambda params: jax.tree.map(lambda _: False, params)}, "chooses nothing"),
    ("maml", {"fast_parameters": lambda params: {"network": True}}, "must return a tree like φ"),
    ("maml", {"std_lr": -1.0}, "std_lr is -1.0"),
    ("maml", {"std_lr": 0.1, "policy": {"learn_std": False}}, "labels no learned standard deviation"),
    ("cavia", {"std_lr": 0.1}, "move the context alone"),
    ("maml", {"std_lr": 0.1, "fast_parameters": network_alone}, "fast_parameters leaves out the standard deviation"),
    ("maml", {"inner_optimizer": mrl.inner.sgd(0.1)}, "hand in a function"),
    ("maml", {"policy": {"context_size": -1}}, "context_size is -1"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_combinations_that_mean_nothing_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        mrl.algorithms.make(name, toys.walk(), **options)
    assert "\n" not in str(refusal.value)


def test_a_categorical_policy_has_no_std():
    for options in ({"std_lr": 0.1}, {"policy": {"min_std": 0.1}}):
        with pytest.raises(ValueError, match="categorical"):
            mrl.algorithms.make("maml", toys.bandit(), **options)


def test_a_trust_region_needs_a_kl():
    class NoDivergence:
        def __init__(self, logits):
            self.own = mrl.policies.Categorical(logits)
            self.sample, self.log_prob, self.entropy = self.own.sample, self.own.log_prob, self.own.entropy

    policy = toys.bandit_policy()._replace(apply=lambda params, _: NoDivergence(params))
    algorithm = mrl.algorithms.make("maml-trpo", toys.bandit(), policy=policy)
    state = jax.eval_shape(algorithm.init, KEY)
    with pytest.raises(ValueError, match="max_kl, .*the method kl .*NoDivergence has none.*such as maml"):
        jax.eval_shape(algorithm.update, KEY, state)
    trust_region = mrl.outer.trust_region()
    parts = build_parts(toys.bandit(), objective=mrl.outer.ratio())
    without = mrl.outer.meta_objective(parts)._replace(kl=None)
    with pytest.raises(ValueError, match="the objective has no KL; choose gradient steps"):
        assemble(parts, trust_region, without)
