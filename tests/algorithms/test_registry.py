"""The registry: every refusal names the value, what is allowed and the nearest name."""

import pytest

import metarl_jax as mrl
from tests import toys

COMMON = {
    "tasks", "episodes", "adaptation_steps", "burn_in", "horizon", "inner_lr", "surrogate", "advantage", "policy",
    "credit", "baseline", "inner_optimizer", "fast_parameters", "std_lr", "remat", "task_chunk", "inner_lr_beyond",
    "multi_step_iterations",
}  # fmt: skip

# What these refuse they do not list.
WITHOUT = {
    "es-maml": {"credit", "entropy_weight", "multi_step_iterations"},
    "pretrain": {"credit", "burn_in", "multi_step_iterations"},
    "reptile": {"credit", "burn_in", "fast_parameters", "entropy_weight", "multi_step_iterations"},
    "lpg": {"credit", "surrogate", "fast_parameters", "inner_lr_beyond", "multi_step_iterations"},
    "self-tuning": {
        "credit",
        "surrogate",
        "advantage",
        "baseline",
        "fast_parameters",
        "std_lr",
        "inner_lr_beyond",
        "multi_step_iterations",
    },
}

WITH_MEMORY = {
    "tasks", "episodes", "adaptation_steps", "burn_in", "horizon", "advantage", "discount", "lambda_", "policy",
    "remat", "task_chunk", "outer_lr", "memory_size", "bptt", "minibatches",
}  # fmt: skip


@pytest.mark.parametrize("name", mrl.algorithms.names())
def test_options_are_complete(name):
    options = mrl.algorithms.options(name)
    if name in ("rl2", "rl2-hyper"):
        assert options.keys() >= WITH_MEMORY
        assert not options.keys() & {"inner_lr", "surrogate", "credit", "baseline"}
    else:
        without = WITHOUT.get(name, set())
        assert options.keys() >= COMMON - without
        assert not options.keys() & without
    assert not options.keys() & {"objective", "env"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("prompt", {}, "unknown algorithm 'prompt': did you mean 'promp'.*fomaml, .*maml, maml-trpo, .*promp"),
        ("promp", {"epoch": 3}, "unknown option of promp 'epoch': did you mean 'epochs'"),
        ("maml", {"clip": 0.3}, "unknown option of maml 'clip'"),
        ("maml", {"objective": None}, "unknown option of maml 'objective'"),
        ("maml", {"surrogate": "likelihood"}, "unknown surrogate 'likelihood': did you mean 'likelihood_ratio'"),
        ("maml", {"advantage": "gea"}, "unknown advantage 'gea': did you mean 'gae'"),
        ("maml", {"advantage": "returns", "lambda_": 0.9}, "advantage 'returns' takes no lambda_"),
        ("maml", {"advantage": lambda t: t.reward, "discount": 0.9}, "advantage is a function"),
        ("maml", {"discount": 1.5}, "discount is 1.5"),
        ("maml", {"inner_lr": -1.0}, "inner_lr is -1"),
        ("maml", {"inner_lr": True}, "inner_lr is True"),
        ("maml", {"outer_lr": -1.0}, "outer_lr is -1"),
        ("promp", {"outer_lr": float("nan")}, "outer_lr is nan"),
        ("fomaml", {"outer_lr": "x"}, "outer_lr is 'x'"),
        ("maml-trpo", {"max_kl": None}, "max_kl is None"),
        ("maml", {"advantage": [1]}, "unknown advantage"),
        ("maml", {"tasks": 0}, "tasks is 0"),
        ("promp", {"tasks": "x"}, "tasks is 'x'; it must be an integer"),
        ("maml", {"horizon": 0}, "horizon is 0"),
        ("maml", {"burn_in": 5}, "burn_in is 5"),
        ("promp", {"epochs": 0}, "epochs is 0"),
        ("promp", {"clip": -1.0}, "clip is -1"),
        ("promp", {"inner_kl_weight": -1.0}, "inner_kl_weight is -1"),
        ("promp", {"inner_kl_target": 0.1, "adaptation_steps": 0}, "inner_kl_target is for what inner steps learn"),
        ("promp", {"inner_kl_target": 0.0}, "inner_kl_target is 0.0"),
        ("promp", {"inner_kl_target": 0.1, "inner_kl_weight": 0.0}, "inner_kl_weight is 0.0; it must be a positive"),
        ("maml-trpo", {"max_kl": 0}, "max_kl is 0"),
        ("maml", {"multi_step_iterations": 9}, "multi_step_iterations is 9, and with burn_in=1 only the last stage"),
        ("promp", {"multi_step_iterations": 0, "burn_in": 0}, "multi_step_iterations is 0; it must be an integer"),
        ("e-maml", {"multi_step_iterations": 9, "burn_in": 0}, "which credit does not follow; leave one of them out"),
        (
            "es-maml",
            {"multi_step_iterations": 9},
            "is 9, and that is part of an outer loss, which es-maml does",
        ),
        ("reptile", {"multi_step_iterations": 9, "adaptation_steps": 2}, "multi_step_iterations .*leave .* out"),
        (
            "pretrain",
            {"multi_step_iterations": 9},
            "is 9, and in pretrain every stage counts and none adapts",
        ),
        ("lpg", {"multi_step_iterations": 9}, "multi_step_iterations is 9, and lpg learns all"),
        ("self-tuning", {"multi_step_iterations": 9}, "multi_step_iterations is 9, and self-tuning has"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        mrl.algorithms.make(name, toys.walk(), **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("field", ["observation_size", "action_size", "horizon"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None])
def test_environment_sizes(field, value):
    sizes = {"observation_size": 1, "action_size": 1, "horizon": 1, field: value}
    with pytest.raises(ValueError, match=f"{field} of the environment"):
        mrl.TaskEnv(sample_task=None, reset=None, step=None, **sizes)
