"""Options as data: one struct from which the signature, the docstring, the checks and the flags of a call derive."""

import dataclasses
import inspect
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax import outer
from metarl_jax.keywords import by_keyword, defaults, descriptions, narrowed
from metarl_jax.runs.evaluation import comparisons
from tests import toys

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """Of several."""

    tasks: int = 20
    """B, tasks"""
    rate: float = 0.1
    """α"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Base):
    """Of one."""

    size: int
    """units"""
    rate: float = 0.5
    tasks: int = 3
    """B, own tasks"""

    refused: ClassVar[Mapping[str, str]] = {"credit": "nothing is explored"}


@by_keyword(Own)
def two_words(env, options):
    """What it does."""
    return env, options


def test_a_call_builds_the_struct():
    env = toys.walk()
    assert two_words(env, size=3) == (env, Own(size=3))
    assert two_words.build(env, Own(size=3, tasks=2)) == two_words(env, size=3, tasks=2)
    assert two_words(env, size=3, credit=None, rate=0.2) == (env, Own(size=3, rate=0.2))


def test_the_struct_documents_the_function():
    assert defaults(Own) == {"rate": 0.5, "tasks": 3}
    assert descriptions(Own) == {"size": "units", "rate": "α", "tasks": "B, own tasks"}
    assert inspect.getdoc(two_words).splitlines() == [
        *("What it does.", "", "Args:", "    env: p(M) and its MDPs", "    size: units", "    rate: α (default: 0.5)"),
        "    tasks: B, own tasks (default: 3)",
    ]
    assert list(inspect.signature(two_words).parameters) == ["env", "size", "rate", "tasks"]
    assert inspect.signature(two_words).parameters["rate"].default == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sise": 3}, "unknown option of two-words 'sise': did you mean 'size'"),
        ({"size": 3, "gamma": 0.9}, "unknown option of two-words 'gamma': here it is discount"),
        ({"size": 3, "credit": 0.5}, "credit is 0.5, and nothing is explored; leave credit out"),
        ({}, "two-words needs size=..., which has no default"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        two_words(toys.walk(), **options)
    assert "\n" not in str(refusal.value)


PLAIN = "'{}', env='walk', tasks=20, episodes=20, adaptation_steps=1"


def my_surrogate(policy, params, trajectory, advantage):
    return 0.0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (mrl.algorithms.promp, f"MetaAlgorithm({PLAIN.format('promp')})"),
        (mrl.algorithms.loaded_dice, f"MetaAlgorithm({PLAIN.format('loaded-dice')})"),
        (
            lambda env: mrl.algorithms.make(
                *("maml", env),
                tasks=2,
                surrogate=my_surrogate,
                inner_lr=(0.2, 0.1),
                discount=None,
                max_gradient_norm=np.float32(0.5),
                policy={"hidden": (4,)},
                outer_optimizer=optax.sgd(0.1),
                adaptation_steps=2,
                remat=False,
            ),
            "MetaAlgorithm('maml', env='walk', tasks=2, episodes=20, adaptation_steps=2, policy={'hidden': (4,)}, "
            "surrogate=my_surrogate, inner_lr=(0.2, 0.1), "
            "outer_optimizer=GradientTransformationExtraArgs(…), max_gradient_norm=np.float32(0.5))",
        ),
        (
            lambda env: mrl.algorithms.maml(env)._replace(update=print, policy=None),
            f"MetaAlgorithm({PLAIN.format('maml')}, own update, own policy)",
        ),
        (
            lambda env: mrl.algorithms.mixture({"a": mrl.algorithms.maml(env, tasks=2)}),
            "MetaAlgorithm('mixture', a=MetaAlgorithm('maml', env='walk', tasks=2, episodes=20, adaptation_steps=1))",
        ),
        (lambda env: mrl.MetaAlgorithm(print, print, print, print), "MetaAlgorithm(init, update, adapt, gradient)"),
        (lambda env: mrl.Policy(my_surrogate, print), "Policy(init=my_surrogate, apply=print)"),
        (
            lambda env: mrl.policies.mlp(env),
            "Policy(init=gaussian_mlp.init, apply=gaussian_mlp.apply, labels=_body.labels)",
        ),
        (
            lambda env: outer.trust_region(),
            "OuterOptimizer(init=trust_region.<lambda>, update=trust_region.update, needs_kl=True)",
        ),
    ],
)
def test_algorithms_and_their_parts_say_in_one_line_what_they_are(make, told):
    assert repr(make(toys.walk())) == told


@pytest.mark.parametrize("name", mrl.algorithms.names())
def test_nothing_prints_addresses(name):
    algorithm = mrl.algorithms.make(name, toys.walk(), tasks=2, episodes=2)
    for text in map(repr, (algorithm, algorithm.policy, algorithm.online)):
        assert " at 0x" not in text
        assert "\n" not in text
    assert repr(algorithm).startswith(f"MetaAlgorithm('{name}', env='walk', tasks=2, episodes=2, adaptation_steps=")
    assert {algorithm, algorithm.policy}, "both can be hashed"


def test_a_registered_function_is_told_by_its_name(registry):
    mrl.algorithms.register("gentle", lambda env, *, share=0.5, **common: mrl.algorithms.maml(env, **common))
    algorithm = mrl.algorithms.make("gentle", toys.walk(), share=0.25)
    assert repr(algorithm) == f"MetaAlgorithm({PLAIN.format('gentle')}, share=0.25)"
    assert algorithm.recipe.options == {"share": 0.25}


def test_what_is_no_environment_is_refused():
    with pytest.raises(ValueError, match="env is 'cheetah-vel', without 'sample_task'"):
        mrl.algorithms.maml("cheetah-vel")


def test_a_refused_option_may_ask_for_nothing():
    env, sizes = toys.walk(), {"tasks": 2, "episodes": 2}
    mrl.algorithms.reptile(env, credit=0, entropy_weight=0.0, fast_parameters="all", burn_in=None, **sizes)
    mrl.algorithms.pretrain(env, credit=False, credit_estimator="return", **sizes)
    mrl.algorithms.loaded_dice(env, surrogate=None, **sizes)
    with pytest.raises(ValueError, match="burn_in is False, and that is part of an outer loss"):
        mrl.algorithms.reptile(env, burn_in=False, **sizes)
    with pytest.raises(ValueError, match="inner_optimizer must be a function inner_lr → InnerOptimizer"):
        mrl.algorithms.self_tuning(env, inner_optimizer=lambda rate: 0.1)


def test_a_default_may_come_from_a_factory():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class WithFactory:
        layers: list = dataclasses.field(default_factory=lambda: [1, 2])

    listed = by_keyword(WithFactory)(lambda env, options: options.layers)
    assert listed(toys.walk()) == [1, 2]
    assert defaults(WithFactory) == {"layers": [1, 2]}


def test_narrowed_copies_what_both_have():
    assert narrowed(Base, Own(size=3, rate=0.2, tasks=4)) == Base(tasks=4, rate=0.2)
    assert narrowed(Own, Base(tasks=4), size=7) == Own(size=7, tasks=4, rate=0.1)


@pytest.mark.parametrize("name", mrl.algorithms.names())
def test_every_option_of_an_algorithm_is_documented_and_taken(name):
    """No option is listed that is refused: each default, handed in by name, makes the same algorithm."""
    function, options = mrl.algorithms.ALGORITHMS[name], mrl.algorithms.options(name)
    assert all(descriptions(function.options).get(option) for option in options)
    assert not options.keys() & getattr(function.options, "refused", {}).keys()
    small = {"tasks": 2, "episodes": 2}
    key, env = jax.random.key(0), toys.walk()
    given, plain = (mrl.algorithms.make(name, env, **known) for known in (options | small, small))
    shapes = [jax.eval_shape(algorithm.init, key) for algorithm in (given, plain)]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])


def test_the_keywords_of_named_and_composed_algorithms_are_checked():
    with pytest.raises(ValueError, match="unknown option of maml 'epsiodes': did you mean 'episodes'"):
        mrl.algorithms.maml(toys.walk(), epsiodes=3)
    with pytest.raises(ValueError, match="compose needs objective="):
        mrl.algorithms.compose(toys.walk(), outer_optimizer=outer.trust_region())
    with pytest.raises(ValueError, match="unknown option of compose 'lr': here it is outer_lr, .* or inner_lr"):
        mrl.algorithms.compose(toys.walk(), lr=1.0)


@pytest.mark.thorough
def test_the_skeleton_is_an_algorithm_like_all_others(registry):
    """One file outside of the package: its option is found in `options`, in the table and among the flags."""
    skeleton = ROOT / "docs" / "skeleton_algorithm.py"
    runpy.run_path(str(skeleton))
    options = mrl.algorithms.options("scaled-maml")
    assert options["noise_scale"] == 0.0
    assert options.keys() == mrl.algorithms.options("maml").keys() | {"noise_scale"}
    env, key, sizes = toys.walk(), jax.random.key(0), {"tasks": 2, "episodes": 2, "horizon": 3}
    without, same, other = (
        mrl.algorithms.make(name, env, **sizes, **own)
        for name, own in (("maml", {}), ("scaled-maml", {}), ("scaled-maml", {"noise_scale": 0.5}))
    )
    theta = without.init(key).params
    gradients = [jax.jit(algorithm.gradient)(key, theta)[0] for algorithm in (without, same, other)]
    jax.tree.map(np.testing.assert_array_equal, gradients[0], gradients[1])
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, gradients[1:]), strict=True))
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    assert "`scaled-maml`" in tables["algorithms"]()
    assert "noise_scale: float | None = None" in tables["flags"]()


def test_its_option_is_a_flag_of_the_scripts(tmp_path):
    (tmp_path / "skeleton_algorithm.py").write_text((ROOT / "docs" / "skeleton_algorithm.py").read_text())
    command = [sys.executable, "-m", "metarl_jax.commands.train", "--import", "skeleton_algorithm", "--help"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--noise-scale {None}|FLOAT" in done.stdout
    assert "standard deviation of noise in the inner gradient" in done.stdout


def test_a_comparison_counts_both_trials_of_an_antithetic_pair():
    steps = [
        comparisons.entry(toys.walk(), name, {"tasks": 2, "episodes": 2}, eval_episodes=4).trial
        for name in ("maml", "es-maml")
    ]
    assert steps[1] == 2 * steps[0]
