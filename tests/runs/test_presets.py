"""Presets, and options that stand in another place than their flags would put them."""

import dataclasses

import pytest

from metarl_jax import algorithms, envs
from metarl_jax.runs.config import AlgorithmConfig, TrainConfig, algorithm_options, folded, presets

CONFIG = TrainConfig(task="point-nav", algorithm="maml")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_name_what_exists(name):
    preset = presets.get(name)
    assert preset.preset == name
    assert algorithm_options(preset).keys() <= algorithms.options(preset.algorithm).keys()
    card = envs.card(preset.task)
    assert preset.backend is None or preset.backend in card.backends


def test_a_preset_of_another_version_has_nothing_to_leave_behind():
    config = dataclasses.replace(CONFIG, preset="of another version")
    assert presets.adopt(config, algorithms.options(config.algorithm)) == (config, [])


def test_what_a_flag_could_have_set_is_where_the_flag_would_have_set_it():
    options = AlgorithmConfig(
        option=("stage_steps=400", "inner_lr=[0.3, 0.2]", "std_lr=1", "baseline=zero", "share=0.5"), tasks=3
    )
    config = folded(dataclasses.replace(CONFIG, algorithm_options=options))
    expected = AlgorithmConfig(
        option=("share=0.5",), tasks=3, stage_steps=400, inner_lr=(0.3, 0.2), std_lr=(1,), baseline="zero"
    )
    assert config.algorithm_options == expected
    hash(config)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'cheetah-dir'"):
        presets.get("cheeta-dir")


def test_another_algorithm_leaves_the_presets_foreign_options_behind():
    preset = presets.get("cheetah-dir")
    config, dropped = presets.adopt(dataclasses.replace(preset, algorithm="maml"), algorithms.options("maml"))
    assert set(dropped) == {"epochs", "clip", "inner_kl_weight"}
    assert algorithm_options(config).keys() <= algorithms.options("maml").keys()
    assert config.algorithm_options.tasks == 40
    assert presets.adopt(preset, algorithms.options("promp")) == (preset, [])
    # What was asked for explicitly stays, so that the algorithm can refuse it.
    wanted = dataclasses.replace(config, algorithm_options=AlgorithmConfig(clip=0.1))
    assert presets.adopt(wanted, algorithms.options("maml"))[0].algorithm_options.clip == 0.1


def test_a_beta_policy_leaves_the_presets_standard_deviation_behind():
    preset = presets.get("cheetah-dir-cpu")
    assert preset.policy.min_std is not None
    beta = dataclasses.replace(preset, policy=dataclasses.replace(preset.policy, distribution="beta"))
    config, dropped = presets.adopt(beta, algorithms.options("promp"))
    assert dropped == ["min_std"]
    assert config == dataclasses.replace(preset, policy=dataclasses.replace(beta.policy, min_std=None))
    explicit = dataclasses.replace(beta, policy=dataclasses.replace(beta.policy, min_std=0.3))
    assert presets.adopt(explicit, algorithms.options("promp")) == (explicit, [])
    squashed = dataclasses.replace(preset, policy=dataclasses.replace(preset.policy, distribution="squashed"))
    assert presets.adopt(squashed, algorithms.options("promp")) == (squashed, [])
