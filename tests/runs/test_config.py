import dataclasses
import math

import jax
import numpy as np
import pytest

from metarl_jax import algorithms, envs, guard
from metarl_jax.keywords import descriptions
from metarl_jax.runs.config import (
    AlgorithmConfig,
    EvaluationConfig,
    PolicyConfig,
    TrainConfig,
    algorithm_options,
    arguments,
    build,
    inner_rates,
    presets,
    settings,
    traced_numbers,
)
from metarl_jax.runs.config.assembly import _scheduled_rate
from metarl_jax.runs.config.file import differences, from_json, to_json
from metarl_jax.runs.sweeps import plans
from metarl_jax.sharing import program
from tests import rows

CONFIG = TrainConfig(
    task="bernoulli-bandit",
    algorithm="maml",
    env_option=("arms=3",),
    algorithm_options=AlgorithmConfig(inner_lr=(0.5, 0.25), tasks=3, option=("outer_lr=0.5",)),
    policy=PolicyConfig(hidden=(4,)),
)


@pytest.mark.parametrize("config", [CONFIG, TrainConfig(), *presets.PRESETS.values()])
def test_json_round_trip(config):
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json is not JSON"),
        ("[]", "where an object is needed"),
        ('{"taks": "point-nav"}', "unknown field of config.json 'taks': did you mean 'task'"),
        ('{"policy": {"hiden": [3]}}', "did you mean 'hidden'"),
        ('{"iterations": "many"}', "iterations is 'many'; it must be int"),
        ('{"iterations": true}', "iterations is True"),
        ('{"iterations": 0}', "iterations is 0; it must be an integer of at least 1"),
        ('{"evaluation": {"eval_tasks": 1}}', "eval_tasks is 1"),
        ('{"evaluation": {"eval_steps": -1}}', "eval_steps is -1"),
        ('{"seed": -1}', "seed is -1"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(text, "config.json")


def test_a_run_from_before_there_was_a_choice_of_averages_keeps_its_own():
    text = to_json(CONFIG).replace('    "average": null,\n', "")
    assert "average" not in text
    assert from_json(text) == dataclasses.replace(
        CONFIG, algorithm_options=dataclasses.replace(CONFIG.algorithm_options, average="valid")
    )


def test_it_builds_what_it_says():
    built = build(CONFIG)
    assert built.env.action_size == 3
    assert algorithm_options(CONFIG) == {"inner_lr": (0.5, 0.25), "tasks": 3, "outer_lr": 0.5}


@pytest.mark.parametrize("pair", ["arms", "=3", "a b=3"])
def test_options_are_pairs(pair):
    with pytest.raises(ValueError, match="it must be NAME=VALUE"):
        build(dataclasses.replace(CONFIG, env_option=(pair,)))


def stated(text):
    """What a flag's text says of defaults, by algorithm; "None" is that of all others: "(… None: 20; rl2: 100)"."""
    remarks = text.rpartition(" (")[2].rstrip(")").split("; ")
    pairs = [remark.split(": ") for remark in remarks if ": " in remark]
    return {name: value for names, value in pairs for name in names.split(", ")}


def test_the_help_states_the_algorithms_own_defaults():
    texts = descriptions(AlgorithmConfig)
    assert {"tasks", "episodes", "clip", "max_kl", "epochs", "max_gradient_norm"} <= texts.keys()
    for name in algorithms.names():
        for option, default in algorithms.options(name).items():
            if option in texts:
                own = stated(texts[option])
                word = " ".join(default) if option == "tuned" else str(default)
                word = str(float(default)) if option == "credit" else word  # whose flag is a number
                assert word == own.get(name, own.get("None", "None")), (name, option)


def test_every_option_of_an_algorithm_has_a_flag():
    """But for objects, and for what other flags set."""
    elsewhere = {"policy", "outer_optimizer", "task_sampler", "horizon", "context_size"}
    every = {option for name in algorithms.names() for option in algorithms.options(name)}
    flags = {field.name for field in dataclasses.fields(AlgorithmConfig)}
    assert flags == every - elsewhere | {"option"}


def test_inner_rates_of_an_evaluation():
    def of(algorithm, steps, **options):
        return inner_rates(TrainConfig(algorithm=algorithm, algorithm_options=AlgorithmConfig(**options)), steps)

    assert inner_rates(CONFIG, 4) == [0.5, 0.25, 0.125, 0.0625]
    assert inner_rates(CONFIG, 1) == [0.5]
    assert of("maml", 3) == [0.1, 0.05, 0.025]
    assert of("maml", 4, adaptation_steps=3) == [0.1, 0.1, 0.1, 0.05]
    assert of("maml", 3, inner_lr_beyond="constant") == [0.1, 0.1, 0.1]
    assert of("lpg", 7) == [0.1] * 7  # an agent's life goes on as it began
    assert of("rl2", 3) == []


SCHEDULED = TrainConfig(
    task="bernoulli-bandit",
    algorithm="promp",
    iterations=4,
    outer_lr_schedule="linear",
    warmup=2,
    algorithm_options=AlgorithmConfig(tasks=2, episodes=2, epochs=2, outer_lr=0.5),
)


# Two epochs an iteration, of which the second one's rate is the metric.
RATES = [
    ("linear", 2, [0.125, 0.375, 0.375, 0.125]),
    ("constant", 2, [0.125, 0.375, 0.5, 0.5]),
    ("cosine", 0, [0.25 * (1 + math.cos(math.pi * step / 8)) for step in (1, 3, 5, 7)]),
]


@pytest.mark.parametrize(("schedule", "warmup", "rates"), RATES)
def test_schedules_by_name(schedule, warmup, rates):
    config = dataclasses.replace(SCHEDULED, outer_lr_schedule=schedule, warmup=warmup)
    rate = _scheduled_rate(config)["outer_lr"]
    assert [float(rate(step)) for step in (1, 3, 5, 7)] == pytest.approx(rates, rel=1e-5)


@pytest.mark.parametrize(("schedule", "warmup", "rates"), rows.by_default(RATES, RATES[:1]))
def test_the_outer_rate_follows_the_schedule_of_the_whole_run(schedule, warmup, rates):
    algorithm = build(dataclasses.replace(SCHEDULED, outer_lr_schedule=schedule, warmup=warmup)).algorithm
    state, update, seen = algorithm.init(jax.random.key(0)), jax.jit(algorithm.update), []
    for number in range(4):
        state, metrics = update(jax.random.key(number), state)
        seen.append(float(metrics["outer_lr"]))
    assert seen == pytest.approx(rates, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outer_lr_schedule": "cosin"}, "outer_lr_schedule 'cosin': did you mean 'cosine'"),
        ({"warmup": -1}, "warmup is -1"),
        ({"algorithm_options": AlgorithmConfig(outer_lr=-0.1)}, "outer_lr is -0.1"),
        ({"algorithm_options": AlgorithmConfig(outer_lr=0.0)}, "outer_lr is 0.0"),
        ({"warmup": 4}, "warmup is 4; it must be less than the 4 iterations"),
        ({"algorithm": "maml-trpo", "algorithm_options": AlgorithmConfig()}, "maml-trpo has no outer rate"),
    ],
)
def test_schedules_that_are_none(changes, message):
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(SCHEDULED, **changes))


def test_a_run_whose_rate_falls_keeps_its_length():
    longer = dataclasses.replace(SCHEDULED, iterations=8)
    assert differences(SCHEDULED, longer) == (["iterations was 4, now 8"], [])
    plain = [dataclasses.replace(config, outer_lr_schedule="constant") for config in (SCHEDULED, longer)]
    assert differences(*plain) == ([], ["iterations was 4, now 8"])


def test_differences_name_the_field_and_tell_what_is_safe():
    free = {"iterations": 3, "keep": 1, "folder": "x", "wandb": "p", "evaluation": EvaluationConfig(eval_tasks=5)}
    fixed, safe = differences(CONFIG, dataclasses.replace(CONFIG, **free))
    assert fixed == []
    assert safe == [
        "iterations was 200, now 3",
        "keep was 3, now 1",
        "wandb was None, now 'p'",
        "eval_tasks was 40, now 5",
    ]
    assert differences(CONFIG, dataclasses.replace(CONFIG, folder="x", preset="p")) == ([], [])
    assert differences(CONFIG, dataclasses.replace(CONFIG, seed=1)) == (["seed was 0, now 1"], [])
    other = dataclasses.replace(CONFIG, algorithm_options=dataclasses.replace(CONFIG.algorithm_options, tasks=9))
    assert differences(CONFIG, other) == (["tasks was 3, now 9"], [])


def test_where_a_rollback_goes_back_to_is_not_safe_to_change():
    rollback = dataclasses.replace(CONFIG, on_nonfinite="rollback")
    assert differences(CONFIG, dataclasses.replace(CONFIG, checkpoint_every=7))[0] == []
    assert differences(rollback, dataclasses.replace(rollback, checkpoint_every=7))[0] == [
        "checkpoint_every was 25, now 7"
    ]


def test_a_configuration_file_is_where_another_run_starts_from(tmp_path):
    stored = dataclasses.replace(CONFIG, folder=str(tmp_path / "run"), seed=4)
    (tmp_path / "mine.json").write_text(to_json(stored), encoding="utf-8")
    words = ["--config", str(tmp_path / "mine.json"), "--tasks", "5", "--gae-lambda", "0.9"]
    assert arguments.task(words) == "bernoulli-bandit"
    asked = arguments.parse(words)
    options = dataclasses.replace(CONFIG.algorithm_options, tasks=5, lambda_=0.9)
    assert asked.config == dataclasses.replace(CONFIG, seed=4, algorithm_options=options), "in a folder of its own"
    assert "mine.json" in asked.why


# --- numbers that are arguments of the programs ----------------------------------------------------------------------

TRACED = TrainConfig(
    task="point-nav",
    algorithm="promp",
    traced=("inner_lr", "outer_lr", "clip", "entropy_weight"),
    algorithm_options=AlgorithmConfig(inner_lr=(0.2,), outer_lr=0.01, clip=0.4, tasks=2),
)


def with_options(config, **options):
    return dataclasses.replace(config, algorithm_options=dataclasses.replace(config.algorithm_options, **options))


def test_traced_are_the_numbers_that_a_run_has():
    assert traced_numbers(TRACED) == {"inner_lr": 0.2, "outer_lr": 0.01, "clip": 0.4}
    assert traced_numbers(dataclasses.replace(TRACED, traced=())) == {}
    assert traced_numbers(with_options(TRACED, inner_lr=(0.2, 0.1))) == {"outer_lr": 0.01, "clip": 0.4}
    assert traced_numbers(with_options(dataclasses.replace(TRACED, algorithm="maml"), clip=None)).keys() == {
        "inner_lr",
        "outer_lr",
    }
    assert traced_numbers(dataclasses.replace(TRACED, algorithm="e-maml", traced=("credit",))) == {}


@pytest.mark.parametrize("schedule", ["linear", rows.thorough("cosine"), rows.thorough("constant")])
def test_a_traced_rate_may_follow_a_schedule(schedule):
    rates = []
    for traced in ((), ("outer_lr",)):
        config = dataclasses.replace(SCHEDULED, outer_lr_schedule=schedule, traced=traced)
        algorithm = build(config).algorithm
        assert bool(getattr(algorithm.update, "numbers", None)) == bool(traced)
        run = jax.jit(lambda update, key, state: update(key, state))
        state, metrics = algorithm.init(jax.random.key(0)), {}
        for number in range(3):
            state, metrics = run(program(algorithm.update), jax.random.key(number), state)
        rates.append((float(metrics["outer_lr"]), state.params))
    assert rates[0][0] == pytest.approx(rates[1][0], rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), rates[0][1], rates[1][1])


def test_runs_that_differ_in_traced_numbers_are_made_of_the_same_functions():
    one = build(TRACED)
    other = build(dataclasses.replace(with_options(TRACED, inner_lr=(0.3,)), seed=7, folder="x"))
    assert other.env is one.env
    assert other.algorithm.update.function is one.algorithm.update.function
    assert other.algorithm.update.numbers == {"inner_lr": 0.3, "outer_lr": 0.01, "clip": 0.4}
    assert "inner_lr=0.3" in repr(other.algorithm)
    for different in (with_options(TRACED, tasks=3), dataclasses.replace(TRACED, horizon=7)):
        assert build(different).algorithm.update.function is not one.algorithm.update.function
    assert build(TRACED, split="test").env is not one.env
    assert build(TRACED, inner_lr=(0.3, 0.1)).algorithm.update.numbers == {"outer_lr": 0.01, "clip": 0.4}


def test_what_is_traced_has_to_be_a_number():
    with pytest.raises(ValueError, match="unknown traced 'outer_rl': did you mean 'outer_lr'"):
        build(dataclasses.replace(TRACED, traced=("outer_rl",)))
    with pytest.raises(ValueError, match="unknown traced 'tasks'"):
        build(dataclasses.replace(TRACED, traced=("tasks",)))
    with pytest.raises(ValueError, match="clip is -0.4"):
        build(with_options(TRACED, clip=-0.4))


def test_words_that_are_listed_twice_are_the_same():
    """Settings list them again, since their own modules import JAX."""
    assert settings.SPLITS == envs.SPLITS
    assert settings.ON_NONFINITE == guard.ON_NONFINITE


def test_every_option_that_a_sweep_traces_is_a_number_of_an_algorithm():
    known = {number for name in algorithms.names() for number in algorithms.numbers(name)}
    assert known >= plans.NUMBERS
    assert known - {"lambda_"} <= {field.name for field in dataclasses.fields(AlgorithmConfig)}
