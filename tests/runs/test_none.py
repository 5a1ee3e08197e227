"""None on a command line: the default, or a value where an algorithm has another default and takes None."""

import jax
import pytest

from metarl_jax.runs.config import AlgorithmConfig, TrainConfig, algorithm_options, arguments, build
from metarl_jax.runs.config.file import from_json, to_json, write_config
from metarl_jax.runs.console.cli import UserError


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--algorithm rl2 --max-gradient-norm None", {"max_gradient_norm": None}),
        ("--algorithm rl2 --max-gradient-norm=None", {"max_gradient_norm": None}),
        ("--algorithm rl2 --option max_gradient_norm=None", {"max_gradient_norm": None}),
        ("--algorithm rl2 --max_gradient_norm None", {"max_gradient_norm": None}),
        ("--algorithm rl2 --max_gradient_norm=None", {"max_gradient_norm": None}),
        ("--algorithm rl2 --config CONFIG", {"max_gradient_norm": None}),
        ("--algorithm rl2 --config CONFIG --max-gradient-norm 0.5", {"max_gradient_norm": 0.5}),
        ("--algorithm rl2 --config CONFIG --max-gradient-norm None", {"max_gradient_norm": None}),
        ("--algorithm lpg --burn-in None --max-gradient-norm None", {"burn_in": None, "max_gradient_norm": None}),
        ("--algorithm maml --max-gradient-norm None --burn-in None", {}),  # None is their default
        ("--algorithm rl2 --discount None", {}),  # and here it is no value
        ("--algorithm rl2 --max-gradient-norm 2.0", {"max_gradient_norm": 2.0}),
    ],
)
def test_none_is_a_value_where_an_algorithm_has_another_default(tmp_path, words, options):
    write_config(TrainConfig(algorithm_options=AlgorithmConfig(option=("max_gradient_norm=None",))), tmp_path)
    words = words.replace("CONFIG", str(tmp_path / "config.json"))
    config = arguments.parse(["--task", "point-nav", "--folder", "x", *words.split()]).config
    assert algorithm_options(config) == options
    again = from_json(to_json(config), "config.json")
    assert algorithm_options(again) == options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--task x --algorithm rl2 --option max_gradient_norm=1 --max-gradient-norm None",
            "is None, and --option sets",
        ),
        ("--task x --algorithm rl2 --option max_gradient_norm=None --max-gradient-norm 1", "set it by its flag alone"),
        ("--preset point-nav --option burn_in=None", "--option sets burn_in to None, and it is 1 by --burn-in or the"),
    ],
)
def test_what_is_set_twice_is_refused(words, message):
    with pytest.raises((UserError, ValueError), match=message):
        algorithm_options(arguments.parse(words.split()).config)


def test_none_switches_clipping_off():
    """The chain of the outer optimiser has one link less."""
    words = "--task point-nav --algorithm rl2 --tasks 2 --episodes 2 --horizon 3 --minibatches 1"

    def chain(*more):
        built = build(arguments.parse([*words.split(), *more]).config)
        return jax.tree.structure(jax.eval_shape(built.algorithm.init, jax.random.key(0)).opt_state)

    assert chain("--max-gradient-norm", "None") == chain("--option", "max_gradient_norm=None") != chain()
