"""`mrl.runs.train`: a whole run of objects that no registry knows."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metarl_jax as mrl
from metarl_jax.runs import config as configs
from metarl_jax.runs.config import AlgorithmConfig, EvaluationConfig, PolicyConfig, TrainConfig
from metarl_jax.runs.config.file import write_config
from metarl_jax.runs.console import cli, signals
from metarl_jax.runs.evaluation.evaluate import evaluate_run
from metarl_jax.runs.own import configured
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


@pytest.mark.thorough
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
        ({"warmup": 1}, "the outer rate is an object of your own; leave outer_lr_schedule and warmup out"),
        ({"eval_split": "ood"}, "eval_split is 'ood', and there is no environment for it; give ood= one"),
        ({"env": "point-nav"}, "env is 'point-nav'; it must be a metarl_jax.TaskEnv"),
        ({"ood": "point-nav"}, "ood is 'point-nav'; it must be a metarl_jax.TaskEnv"),
        ({"ood": toys.walk(horizon=9)}, "horizon of ood is 9, and 4 that of env"),
        ({"policy": {"hiden": (3,)}}, "unknown option of the policy 'hiden': did you mean 'hidden'"),
        ({"algorithm": mrl.algorithms.maml}, "algorithm is of type .*; it must be a name"),
        ({"outer_lr": 0.1, "outer_optimizer": optax.sgd(0.1), "warmup": 1}, "the outer rate is an object of your own"),
        ({"folder": ""}, "folder is ''; it must be the path of the run's folder"),
        ({"folder": 3}, "folder is 3; it must be the path of the run's folder"),
        ({"inner_lr": float("nan")}, "inner_lr is nan"),
    ],
)
def test_mistakes_leave_nothing(settings, message, tmp_path, monkeypatch):
    arguments = {"env": ENV, "algorithm": "maml", "outer_lr": schedule(0.1), "iterations": 3} | SIZES | settings
    if "iteratons" in arguments:
        del arguments["iterations"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        mrl.runs.train(**{"folder": "run"} | arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_option_with_the_name_of_a_setting_is_refused(registry):
    mrl.algorithms.register("clash", lambda env, *, seed=3, **common: mrl.algorithms.maml(env, **common))
    with pytest.raises(
        ValueError, match="seed is an option of clash and a setting of the run; give the option another name"
    ):
        configured("clash", None, {"seed": 5})


def test_numbers_of_numpy_and_jax_are_numbers():
    config, objects = configured(
        "maml",
        {"hidden": np.array([4, 3])},
        {
            "inner_lr": jnp.array([0.5, 0.25]),
            "tasks": np.int64(7),
            "remat": np.bool_(True),
            "iterations": np.int32(9),
            "horizon": jnp.array(3),
            "eval_tasks": np.int64(5),
        },
    )
    assert objects == {}
    assert config.own == ("env",)
    assert (config.policy.hidden, config.iterations, config.evaluation.eval_tasks) == ((4, 3), 9, 5)
    options = config.algorithm_options
    assert (options.inner_lr, options.tasks, options.remat, options.option) == ((0.5, 0.25), 7, True, ("horizon=3",))
    json.dumps(dataclasses.asdict(config))


def test_what_no_configuration_can_hold_is_an_object():
    activation = {"activation": jax.nn.relu}
    config, objects = configured("rl2", activation, {"max_gradient_norm": None, "memory_size": 4, "task_chunk": None})
    assert objects == {"max_gradient_norm": None, "policy": activation}
    assert config.own == ("env", "max_gradient_norm", "policy")
    built = configs.with_env(config, ENV, {"max_gradient_norm": None})
    expected = mrl.algorithms.make("rl2", ENV, memory_size=4, max_gradient_norm=None)
    states = [jax.eval_shape(algorithm.init, jax.random.key(0)) for algorithm in (built.algorithm, expected)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_the_report_tells_no_default_rate_where_the_rate_is_an_object():
    config, _ = configured("maml", None, {"inner_lr": lambda step: 0.5 / (step + 1)})
    assert configs.inner_rates(config, 3) == []


@pytest.mark.thorough
def test_theta_of_every_seed_is_loaded_with_the_same_objects(tmp_path):
    settings = {"baseline": mrl.inner.linear_time(), "seeds": 2, "seed": 4}
    run = own(tmp_path / "run", 1, ood=toys.walk(horizon=4), **settings)
    objects = {"env": ENV, "policy": mrl.policies.mlp(ENV, hidden=(4,)), "outer_lr": schedule(0.1)}
    objects["baseline"] = settings["baseline"]
    assert_same(mrl.load(tmp_path / "run", seed=4, **objects).params, run.params)
    other = mrl.load(tmp_path / "run", seed=5, checkpoint="0", split="ood", ood=toys.walk(horizon=4), **objects)
    assert (other.iteration, other.env.name) == (0, f"{ENV.name} (ood)")
    del objects["baseline"]
    with pytest.raises(ValueError, match="needs the objects env, baseline, .*; given are env, outer_lr, pol"):
        mrl.load(tmp_path / "run", **objects)


def test_a_run_of_a_script_takes_no_objects(tmp_path):
    write_config(TrainConfig(task="point-nav"), tmp_path)
    with pytest.raises(ValueError, match="needs no objects, since its folder holds all; given are env"):
        mrl.load(tmp_path, env=ENV)


def test_another_run_in_the_folder_is_refused(whole):
    folder = whole.config.run_folder
    before = (folder / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match="a run of another configuration: tasks was 2, now 3"):
        own(folder, 3, tasks=3)
    with pytest.raises(ValueError, match="shape|other|another"):
        own(folder, 4, hidden=(5,))
    assert (folder / "metrics.csv").read_bytes() == before


def test_scripts_say_that_they_cannot_know_its_objects(whole):
    with pytest.raises(ValueError, match="needs the objects env, outer_lr, policy; given are none"):
        mrl.load(whole.config.run_folder)
    with pytest.raises(cli.UserError, match=r"with objects of its own \(env, outer_lr, policy\).* load\(folder, env="):
        evaluate_run(whole.config.run_folder, cli.console(quiet=True))


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["ctrl-c", "term"]
)
def test_a_signal_ends_the_program_and_says_how_to_go_on(number, kind, tmp_path, monkeypatch, capsys):
    def stopped(config, console, **_):
        with signals.handled(lambda: "the same call goes on with it"):
            signal.raise_signal(number)

    monkeypatch.setattr("metarl_jax.runs.own.train_run", stopped)
    with pytest.raises(kind) as ended:
        own(tmp_path / "run", 3)
    told = str(ended.value) if number == signal.SIGINT else capsys.readouterr().err
    assert f"stopped by {number.name}: the same call goes on with it" in told
    assert number == signal.SIGINT or ended.value.code == 128 + number


def test_numbers_that_are_not_finite_are_an_error_of_the_program(tmp_path):
    def broken(trajectory, discount):
        return (jnp.full(trajectory.reward.shape, jnp.nan),) * 2

    with pytest.raises(RuntimeError, match="stopped at iteration 0: .*the last good checkpoint, of iteration 0"):
        own(tmp_path / "run", 3, baseline=broken)
