"""What users hand to an algorithm's four functions by mistake, and what they are told."""

import jax
import jax.numpy as jnp
import pytest

import metarl_jax as mrl
from tests import rows, toys

SIZES = {"tasks": 2, "episodes": 3}
KINDS = ("maml", "es-maml", "rl2", "lpg")
KEY = jax.random.key(0)


def parts(name):
    env = toys.walk()
    algorithm = mrl.algorithms.make(name, env, **SIZES)
    return algorithm, algorithm.init(KEY), env.sample_task(KEY)


def of_three_seeds(state):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state.params)


CALLS = {
    "an integer for a key": (
        lambda a, s, t: a.init(0),
        "key is 0; the first argument is a key, such as jax.random.key",
    ),
    "no key": (lambda a, s, t: a.update(None, s), "key is None; the first argument"),
    "several keys": (lambda a, s, t: a.init(jax.random.split(KEY, 3)), r"key has shape \[3\], and one key is wanted"),
    "numbers for a key": (lambda a, s, t: a.gradient(jnp.zeros(2), s.params), r"key is an array float32\[2\]"),
    "the state first": (lambda a, s, t: a.update(s, KEY), "key is a MetaState; the first argument is a key"),
    "θ for a state": (
        lambda a, s, t: a.update(KEY, s.params),
        r"update takes \(key, state\), and a state is what init",
    ),
    "a state for θ": (lambda a, s, t: a.adapt(KEY, s, t), "θ is a MetaState; pass its params: state.params"),
    "a state for θ in gradient": (lambda a, s, t: a.gradient(KEY, s), "pass its params: state.params"),
    "a key for θ": (lambda a, s, t: a.adapt(KEY, KEY, t), r"θ is a key; the arguments are \(key, θ\)"),
    "θ of several seeds": (
        lambda a, s, t: a.adapt(KEY, of_three_seeds(s), t),
        "θ is that of 3 seeds.*or jax.vmap over",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_mistakes_are_told_in_words(name):
    given = parts(name)
    for mistake, (call, message) in CALLS.items():
        with pytest.raises(ValueError, match=message) as refusal:
            jax.eval_shape(lambda call=call: call(*given))
        assert "\n" not in str(refusal.value), mistake


def test_keys_of_either_kind_and_theta_of_other_dtypes_pass():
    algorithm, state, task = parts("maml")
    for key in (KEY, jax.random.PRNGKey(0), jax.random.key(0, impl="rbg")):
        jax.eval_shape(algorithm.adapt, key, state.params, task)
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.params)
    jax.eval_shape(algorithm.adapt, KEY, halves, task)


def test_an_evaluation_of_several_seeds_says_how():
    algorithm, state, _ = parts("maml")
    with pytest.raises(ValueError, match="θ is that of 3 seeds, by its leading axis; evaluate one after the other"):
        mrl.evaluation.evaluate(algorithm, toys.walk(), KEY, of_three_seeds(state), num_tasks=2)


@jax.tree_util.register_pytree_node_class
class Bare:
    """A distribution of one's own with what every algorithm needs, and no more."""

    def __init__(self, mean):
        self.mean = mean

    def sample(self, key):
        return self.mean + jax.random.normal(key, self.mean.shape)

    def log_prob(self, action):
        return -((action - self.mean) ** 2).sum() / 2

    def tree_flatten(self):
        return (self.mean,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maml", {}, None),
        rows.thorough("e-maml", {}, None),
        ("promp", {"inner_kl_weight": 0.0}, None),
        ("promp", {}, "inner_kl_weight needs the method kl .*Bare has none; .*or set inner_kl_weight=0"),
        ("maml", {"entropy_weight": 0.1}, "entropy_weight needs the method entropy .*or set entropy_weight=0"),
        ("maml-trpo", {}, "max_kl, the trust region's bound, needs the method kl .*with gradient steps, such as maml"),
        ("rl2-hyper", {}, "entropy_weight needs the method entropy .*or set entropy_weight=0"),
        rows.thorough("rl2-hyper", {"entropy_weight": 0.0, "entropy_half_life": 3}, None),
        ("lpg", {}, "policy_entropy_weight needs the method entropy .*set policy_entropy_weight=0"),
        rows.thorough("lpg", {"policy_entropy_weight": 0.0}, None),
        ("self-tuning", {}, "entropy_weight of self-tuning needs .*set entropy_weight=0 and leave it out of tuned"),
        rows.thorough("self-tuning", {"entropy_weight": 0.0, "tuned": ("discount",)}, None),
        (
            "self-tuning",
            {"entropy_weight": 0.0, "tuned": ("discount",), "bootstrap": 2},
            "bootstrap needs the method kl .*leave bootstrap at 0",
        ),
    ],
)
def test_a_distribution_without_kl_or_entropy_is_refused_by_whom_needs_it(name, options, message):
    policy = mrl.Policy(lambda key: jnp.zeros(1), lambda phi, observation: Bare(phi + 0 * observation))

    algorithm = mrl.algorithms.make(name, toys.walk(), tasks=2, episodes=3, policy=policy, **options)
    state = jax.eval_shape(algorithm.init, KEY)
    if name != "self-tuning":  # only the program that needs it refuses; data of a task need nothing
        jax.eval_shape(algorithm.adapt, KEY, state.params, toys.walk().sample_task(KEY))
    if message is None:
        jax.eval_shape(algorithm.update, KEY, state)
        return
    with pytest.raises(ValueError, match=message) as refusal:
        jax.eval_shape(algorithm.update, KEY, state)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "learning_rate",
            "unknown option of maml 'learning_rate': here it is outer_lr, the rate of the outer loop, or",
        ),
        ("gamma", "'gamma': here it is discount"),
        ("batch_size", "here it is tasks, B, or episodes, N"),
        ("hidden_sizes", r"here it is policy=\{'hidden': \(64, 64\)\}"),
    ],
)
def test_names_of_other_libraries_are_translated(option, message):
    with pytest.raises(ValueError, match=message):
        mrl.algorithms.make("maml", toys.walk(), **{option: 1})
