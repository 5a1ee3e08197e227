"""`mrl.runs.train`: a whole run of objects that no registry knows."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax.runs.config import AlgorithmConfig, EvaluationConfig, PolicyConfig, TrainConfig
from metarl_jax.runs.console import cli, signals
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.runs.run import train_run
from tests import toys

ENV = toys.walk(horizon=4)
SIZES = {"tasks": 2, "episodes": 3, "inner_lr": 0.2, "eval_tasks": 2, "eval_steps": 1, "quiet": True}


def schedule(rate):
    return optax.linear_schedule(rate, 0.0, 10)


def own(folder, iterations, rate=0.1, hidden=(4,), **settings):
    policy = mrl.policies.mlp(ENV, hidden=hidden)
    return mrl.runs.train(
        ENV, "maml", folder, policy=policy, iterations=iterations, outer_lr=schedule(rate), **SIZES | settings
    )


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return own(tmp_path_factory.mktemp("whole") / "run", 3)


def test_the_folder_is_that_of_a_script(whole):
    folder = whole.config.run_folder
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "metrics.csv", "checkpoints", "evaluation.json", "adaptation.png"}
    told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert (told["task"], told["algorithm"], told["iteration"]) == (ENV.name, "maml", 3)
    assert whole.config.own == ("env", "outer_lr", "policy")
    assert (whole.iteration, whole.env.name) == (3, f"{ENV.name} (test)")
    key = jax.random.key(0)
    assert (whole.env.sample_task(key) != ENV.sample_task(key)).any(), "held-out tasks are other draws"


def test_the_same_call_goes_on_bit_for_bit(whole, tmp_path):
    """Stopped after an iteration, and called again: the schedule too goes on where it was."""
    own(tmp_path / "run", 1)
    assert_same(own(tmp_path / "run", 3).params, whole.params)
    rows = (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert rows == (whole.config.run_folder / "metrics.csv").read_text(encoding="utf-8").splitlines()


def test_what_a_name_stands_for_is_trained_as_the_script_does(tmp_path):
    """A registered environment and options that are plain data: θ is that of the configuration."""
    env = mrl.envs.make("point-nav", horizon=4)
    settings = {"tasks": 2, "episodes": 3, "inner_lr": 0.2, "horizon": 3, "eval_tasks": 2, "eval_steps": 0, "seed": 5}
    run = mrl.runs.train(
        env, "maml", tmp_path / "own", iterations=2, policy={"hidden": [4]}, average="valid", quiet=True, **settings
    )
    assert run.config.own == ("env",)
    by_name = TrainConfig(
        task="point-nav", algorithm="maml", horizon=4, iterations=2, seed=5, folder=str(tmp_path / "named"),
        algorithm_options=AlgorithmConfig(
            tasks=2, episodes=3, inner_lr=(0.2,), average="valid", option=("horizon=3",)
        ),
        policy=PolicyConfig(hidden=(4,)),
        evaluation=EvaluationConfig(eval_tasks=2, eval_steps=0),
    )  # fmt: skip
    train_run(by_name, cli.console(quiet=True))
    named = mrl.load(tmp_path / "named")
    assert_same(run.params, named.params)
    means = [
        json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["rows"]["adapted"]["mean"]
        for folder in (tmp_path / "own", tmp_path / "named")
    ]
    assert means[0] == means[1], "the held-out tasks are those of the split of the registry"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iteratons": 3}, "unknown setting of a run of maml 'iteratons': did you mean 'iterations'"),
        ({"inner_rl": 0.1}, "unknown setting of a run of maml 'inner_rl': did you mean 'inner_lr'"),
        ({"algorithm": "mam"}, "unknown algorithm 'mam': did you mean 'maml'"),
        ({"tasks": 0}, "tasks is 0"),
        ({"warmup": 1}, "outer_lr is a schedule of your own; leave outer_lr_schedule and warmup out"),
        ({"eval_split": "ood"}, "eval_split is 'ood', and there is no environment for it; give ood= one"),
        ({"env": "point-nav"}, "env is 'point-nav'; it must be a metarl_jax.TaskEnv"),
    ],
)
def test_mistakes_leave_no_folder(settings, message, tmp_path):
    arguments = {"env": ENV, "algorithm": "maml", "outer_lr": schedule(0.1), "iterations": 3} | SIZES | settings
    if "iteratons" in arguments:
        del arguments["iterations"]
    with pytest.raises(ValueError, match=message):
        mrl.runs.train(folder=tmp_path / "run", **arguments)
    assert not (tmp_path / "run" / "config.json").exists()


def test_another_run_in_the_folder_is_refused(whole):
    folder = whole.config.run_folder
    before = (folder / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match="a run of another configuration: tasks was 2, now 3"):
        own(folder, 3, tasks=3)
    with pytest.raises(ValueError, match="shape|other|another"):
        own(folder, 4, hidden=(5,))
    assert (folder / "metrics.csv").read_bytes() == before


def test_scripts_say_that_they_cannot_know_its_objects(whole):
    for attempt in (
        lambda: mrl.load(whole.config.run_folder),
        lambda: evaluate_run(whole.config.run_folder, cli.console(quiet=True)),
    ):
        with pytest.raises((ValueError, cli.UserError), match="with objects of its own .env, outer_lr, policy."):
            attempt()


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["ctrl-c", "term"]
)
def test_a_signal_ends_the_program_and_says_how_to_go_on(number, kind, tmp_path, monkeypatch):
    def stopped(config, console, **_):
        with signals.handled(lambda: "the same call goes on with it"):
            signal.raise_signal(number)

    monkeypatch.setattr("metarl_jax.runs.own.train_run", stopped)
    with pytest.raises(kind, match=f"stopped by {number.name}: the same call goes on with it"):
        own(tmp_path / "run", 3)


def test_numbers_that_are_not_finite_are_an_error_of_the_program(tmp_path):
    def broken(trajectory, discount):
        return (jnp.full(trajectory.reward.shape, jnp.nan),) * 2

    with pytest.raises(RuntimeError, match="stopped at iteration 0: .*the last good checkpoint, of iteration 0"):
        own(tmp_path / "run", 3, baseline=broken)
