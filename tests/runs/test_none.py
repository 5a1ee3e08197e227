"""None on a command line: the default, or a value where an algorithm has another default and takes None."""

import jax
import pytest

from metarl_jax.runs.config import algorithm_options, arguments, build
from metarl_jax.runs.config.file import from_json, to_json


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--algorithm rl2 --max-gradient-norm None", {"max_gradient_norm": None}),
        ("--algorithm rl2 --max-gradient-norm=None", {"max_gradient_norm": None}),
        ("--algorithm rl2 --option max_gradient_norm=None", {"max_gradient_norm": None}),
        ("--algorithm rl2 --option max_gradient_norm=None --max-gradient-norm 0.5", {"max_gradient_norm": 0.5}),
        ("--algorithm lpg --burn-in None --max-gradient-norm None", {"burn_in": None, "max_gradient_norm": None}),
        ("--algorithm maml --max-gradient-norm None --burn-in None", {}),  # None is their default
        ("--algorithm rl2 --discount None", {}),  # and here it is no value
        ("--algorithm rl2 --max-gradient-norm 2.0", {"max_gradient_norm": 2.0}),
    ],
)
def test_none_is_a_value_where_an_algorithm_has_another_default(words, options):
    config = arguments.parse(["--task", "point-nav", "--folder", "x", *words.split()]).config
    assert algorithm_options(config) == options
    again = from_json(to_json(config), "config.json")
    assert algorithm_options(again) == options


def test_none_switches_clipping_off():
    """The chain of the outer optimiser has one link less."""
    words = "--task point-nav --algorithm rl2 --tasks 2 --episodes 2 --horizon 3 --minibatches 1"

    def chain(*more):
        built = build(arguments.parse([*words.split(), *more]).config)
        return jax.tree.structure(jax.eval_shape(built.algorithm.init, jax.random.key(0)).opt_state)

    assert chain("--max-gradient-norm", "None") == chain("--option", "max_gradient_norm=None") != chain()
