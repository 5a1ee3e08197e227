"""Environments and algorithms from outside of the package, by name: in `make`, in `options`, in every script."""

import dataclasses
import json
import os
import sys

import jax
import numpy as np
import pytest

import metarl_jax as mrl
from metarl_jax.options import TrialOptions
from metarl_jax.runs.console import cli, user_modules
from tests import toys
from tests.experiments.scripts import load as load_script

KEY = jax.random.key(0)
MODULE = '''
import metarl_jax as mrl
from tests import toys


def walk(*, name, horizon, speed):
    env = toys.walk(horizon)
    return mrl.TaskEnv(**{**vars(env), "name": name, "step": lambda task, state, a: env.step(task, state, speed * a)})


def scaled(env, *, share=0.5, **common):
    """maml, whose inner rate is a share of 0.1."""
    return mrl.algorithms.maml(env, inner_lr=0.1 * share, **common)


mrl.envs.register("my-walk", walk, horizon=5, speed=1.0, ood=lambda options: {"speed": 2 * options["speed"]})
mrl.algorithms.register("scaled", scaled, without=["inner_lr"])
'''
TINY = [
    *("--import", "my_module", "--task", "my-walk", "--algorithm", "scaled", "--option", "share=0.25"),
    *("--env-option", "speed=0.5", "--iterations", "2", "--tasks", "2", "--episodes", "4", "--hidden", "2"),
    *("--eval-tasks", "2", "--eval-steps", "1", "--folder", "run"),
]


@pytest.fixture
def user_module(tmp_path, monkeypatch, registries):
    """my_module.py in the working folder; what it registers is forgotten afterwards."""
    (tmp_path / "my_module.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(user_modules.VARIABLE, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("my_module", None)


def test_by_name_they_are_what_they_are_by_hand(user_module):
    assert user_modules.taken_from(["--import=my_module", "--tasks", "2"]) == ["--tasks", "2"]
    user_modules.load(user_modules.find())
    env = mrl.envs.make("my-walk", horizon=4, speed=0.5)
    assert (env.name, env.horizon) == ("my-walk@v1", 4)
    assert mrl.envs.check(env) == ()
    faster = mrl.envs.make("my-walk", split="ood")
    task = env.sample_task(KEY)
    one, other = (e.step(task, e.reset(KEY, task), np.ones(1)).observation for e in (mrl.envs.make("my-walk"), faster))
    np.testing.assert_allclose(other - one, 1, rtol=1e-6)
    assert mrl.envs.card("my-walk").options == {"speed": 1.0}
    options, of_maml = mrl.algorithms.options("scaled"), mrl.algorithms.options("maml")
    assert options == {"share": 0.5} | {name: value for name, value in of_maml.items() if name != "inner_lr"}
    ours, theirs = (
        mrl.algorithms.make(name, env, tasks=2, episodes=2, **own)
        for name, own in (("scaled", {"share": 0.25}), ("maml", {"inner_lr": 0.025}))
    )
    theta = ours.init(KEY).params
    gradients = [jax.jit(algorithm.gradient)(KEY, theta) for algorithm in (ours, theirs)]
    jax.tree.map(np.testing.assert_array_equal, *gradients)
    with pytest.raises(ValueError, match="unknown option of scaled 'shares': did you mean 'share'"):
        mrl.algorithms.make("scaled", env, shares=1)
    with pytest.raises(ValueError, match="unknown option of 'my-walk' 'sped': did you mean 'speed'"):
        mrl.envs.make("my-walk", sped=1)


@pytest.mark.thorough
def test_every_script_knows_them(user_module, monkeypatch, capsys):
    monkeypatch.setattr(cli, "prepare_jax", lambda task=None: None)  # it changes the process for good
    assert cli.run(load_script("train").main, TINY) == 0, capsys.readouterr().err
    assert os.environ[user_modules.VARIABLE] == "my_module", "members of a sweep inherit it"
    config = (user_module / "run" / "config.json").read_text(encoding="utf-8")
    assert "my_module" not in config, "a folder names no code"
    told = json.loads((user_module / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert (told["task"], told["algorithm"]) == ("my-walk@v1", "scaled")
    assert cli.run(load_script("evaluate").main, ["--import", "my_module", "run", "--split", "ood"]) == 0
    run = mrl.load("run")
    assert run.env.name == "my-walk@v1 (test)"


def test_without_the_module_the_name_is_unknown(user_module, monkeypatch, capsys):
    monkeypatch.setattr(cli, "prepare_jax", lambda task=None: None)
    assert cli.run(load_script("train").main, ["--task", "my-walk", "--iterations", "1"]) == 2
    told = capsys.readouterr().err
    assert "unknown environment 'my-walk'" in told
    assert told.strip().endswith("one of yours is found by --import MODULE")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--import"], "--import is ''; it must be the name of a module"),
        (["--import", "my module"], "--import is 'my module'"),
        (["--import", "../my_module.py"], "it must be the name of a module, such as my_module"),
        (["--import", "no_such_module_here"], "there is no module 'no_such_module_here'"),
    ],
)
def test_a_module_that_is_none_is_told(user_module, words, message):
    def both():
        user_modules.taken_from(words)
        user_modules.find()

    with pytest.raises(ValueError, match=message):
        both()


def test_the_working_folder_is_searched_only_where_a_module_is_there(user_module):
    before = list(sys.path)
    user_modules.taken_from(["--import", "json"])
    assert user_modules.find() == ["json"]
    assert sys.path == before, "an installed module opens no folder"
    user_modules.taken_from(["--import", "my_module"])
    assert user_modules.find() == ["json", "my_module"]
    assert sys.path == [*before, str(user_module)], "last, so that nothing there stands for another package"


def test_a_name_that_python_knows_otherwise_is_told(user_module):
    (user_module / "code.py").write_text("", encoding="utf-8")
    user_modules.taken_from(["--import", "code"])
    with pytest.raises(ValueError, match="Python knows another one, .*code.py; give yours another name"):
        user_modules.find()


def test_the_variable_is_checked_too(user_module, monkeypatch):
    monkeypatch.setenv(user_modules.VARIABLE, ".x")
    with pytest.raises(ValueError, match="METARL_IMPORT has '.x'"):
        user_modules.find()


def test_what_a_module_fails_to_import_is_not_hidden(user_module):
    (user_module / "my_module.py").write_text("import no_such_thing_here", encoding="utf-8")
    user_modules.taken_from(["--import", "my_module"])
    with pytest.raises(ModuleNotFoundError, match="no_such_thing_here"):
        cli.import_modules()
    (user_module / "my_module.py").write_text("raise ValueError('a fault of mine, told as it is')", encoding="utf-8")
    with pytest.raises(ValueError, match="^a fault of mine, told as it is$"):
        cli.import_modules()


def build(*, name, horizon):
    return dataclasses.replace(mrl.envs.make("point-nav"), horizon=horizon)


def stubborn(*, name, horizon):
    return mrl.envs.make("point-nav")


def demanding(env, *, share, policy=None):
    return mrl.algorithms.maml(env, policy=policy)


def stiff(env, *, share=1):
    return mrl.algorithms.maml(env)


@mrl.algorithms.by_keyword(TrialOptions)
def without_policy(env, options): ...


BAD = {
    "the package's own family": (lambda: mrl.envs.register("point-nav", build, horizon=1), "a family of the package"),
    "a version in the name": (lambda: mrl.envs.register("a@b", build, horizon=1), "without '@'"),
    "no function": (lambda: mrl.envs.register("a", 3, horizon=1), "build is 3"),
    "a horizon of 0": (lambda: mrl.envs.register("a", build, horizon=0), "horizon is 0"),
    "an option of make": (lambda: mrl.envs.register("a", build, horizon=1, split=2), "'split' is what make takes"),
    "an option that build has not": (lambda: mrl.envs.register("a", build, horizon=1, sped=2), "unexpected .* 'sped'"),
    "versions on the card": (
        lambda: mrl.envs.register("a", build, horizon=1, card={"versions": 1}),
        "entry of the card",
    ),
    "a card's entry": (lambda: mrl.envs.register("a", build, horizon=1, card={"formla": ""}), "did you mean 'formula'"),
    "the package's own algorithm": (lambda: mrl.algorithms.register("maml", build), "an algorithm of the package"),
    "no name": (lambda: mrl.algorithms.register("", build), "name is ''"),
    "a list for a name": (lambda: mrl.algorithms.register([], build), "name is \\[\\]"),
    "a parameter without default": (lambda: mrl.algorithms.register("a", demanding), "'share' of 'a' needs a default"),
    "no policy": (lambda: mrl.algorithms.register("a", stiff), r"function\(env, policy=None, ...\)"),
    "no parameters": (lambda: mrl.algorithms.register("a", lambda: 0), r"function\(env, policy=None, ...\)"),
    "options alone": (lambda: mrl.algorithms.register("a", lambda **common: 0), r"function\(env, policy=None, ...\)"),
    "like itself": (lambda: mrl.algorithms.register("a", lambda env, **common: 0, like="a"), "like is 'a' itself"),
    "like nothing": (
        lambda: mrl.algorithms.register("a", lambda env, **common: 0, like="mamel"),
        "did you mean 'maml'",
    ),
    "without nothing": (
        lambda: mrl.algorithms.register("a", lambda env, **common: 0, without=["iner_lr"]),
        "did you mean 'inner_lr'",
    ),
    "no algorithm": (lambda: mrl.algorithms.register("a", 3), "algorithm 'a' is 3"),
    "a reserved name": (lambda: mrl.algorithms.register("a", lambda env, *, kind=1, **common: 0), "parameter 'kind'"),
    "a struct without policy": (lambda: mrl.algorithms.register("a", without_policy), "'a' must have a field policy"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_registered_is_told(case):
    register, message = BAD[case]
    families, algorithms = set(mrl.envs.FAMILIES), set(mrl.algorithms.ALGORITHMS)
    with pytest.raises(ValueError, match=message):
        register()
    assert (set(mrl.envs.FAMILIES), set(mrl.algorithms.ALGORITHMS)) == (families, algorithms)


@pytest.mark.parametrize(
    ("made", "message"),
    [(stubborn, "an environment with horizon 100, and 7 was asked for"), (lambda **_: None, "returns None; it must")],
)
def test_what_a_family_builds_is_checked(user_module, made, message):
    mrl.envs.register("my-nav", made, horizon=7)
    with pytest.raises(ValueError, match=message):
        mrl.envs.make("my-nav")


def test_options_are_those_of_the_algorithm_that_it_is_like(user_module):
    mrl.algorithms.register("my-rl2", lambda env, **common: mrl.algorithms.rl2(env, **common), like="rl2")
    assert mrl.algorithms.options("my-rl2") == mrl.algorithms.options("rl2")
    mrl.algorithms.register("alone", lambda env, *, policy=None, tasks=3: mrl.algorithms.maml(env, tasks=tasks))
    assert mrl.algorithms.options("alone") == {"policy": None, "tasks": 3}
    with pytest.raises(ValueError, match="unknown option of alone 'surrogate'"):
        mrl.algorithms.make("alone", mrl.envs.make("point-nav"), surrogate="dice")


def test_without_ood_there_is_no_such_split(user_module):
    mrl.envs.register("my-nav", build, horizon=3)
    assert mrl.envs.make("my-nav", split="test").name == "my-nav@v1 (test)"
    with pytest.raises(ValueError, match="'my-nav' has no split 'ood'"):
        mrl.envs.make("my-nav", split="ood")
    assert tuple(mrl.envs.card("my-nav").splits) == ("train", "test")
    mrl.envs.register("my-other-nav", build, horizon=3, ood=lambda options: {"sped": 2.0})
    assert "ood" in mrl.envs.card("my-other-nav").splits
    with pytest.raises(ValueError, match="unknown option of 'my-other-nav', in its split 'ood' 'sped'"):
        mrl.envs.make("my-other-nav", split="ood")


def test_a_folder_reached_by_a_link_is_the_same_folder(user_module, tmp_path_factory, monkeypatch):
    link = tmp_path_factory.mktemp("links") / "linked"
    link.symlink_to(user_module, target_is_directory=True)
    monkeypatch.setattr(sys, "path", [str(link), *sys.path])
    user_modules.taken_from(["--import", "my_module"])
    assert user_modules.find() == ["my_module"]


def test_a_module_of_pythons_own_is_not_taken_for_the_users(user_module):
    (user_module / "time.py").write_text(MODULE, encoding="utf-8")
    user_modules.taken_from(["--import", "time"])
    with pytest.raises(ValueError, match="Python knows another one, built-in; give yours another name"):
        user_modules.find()


def made(name, **options):
    return mrl.algorithms.make(name, toys.walk(), tasks=2, episodes=2, **options)


def equal_gradients(theta, *pair):
    jax.tree.map(np.testing.assert_array_equal, *(jax.jit(algorithm.gradient)(KEY, theta)[0] for algorithm in pair))


@pytest.mark.thorough
def test_a_function_is_handed_what_was_given_and_no_defaults(user_module):
    """Whatever algorithm it calls: the defaults of that one are not those of `like`."""
    mrl.algorithms.register("an", lambda env, **common: mrl.algorithms.anil(env, **common))
    mrl.algorithms.register("rep", lambda env, **common: mrl.algorithms.reptile(env, **common))
    mrl.algorithms.register("slow", lambda env, **common: mrl.algorithms.maml(env, inner_lr=0.01, **common))
    theta = made("maml").init(KEY).params
    for name, like, own in (("an", "anil", {}), ("rep", "reptile", {}), ("slow", "maml", {"inner_lr": 0.01})):
        equal_gradients(theta, made(name), made(like, **own))
    equal_gradients(theta, made("an", fast_parameters="all"), made("maml"))
