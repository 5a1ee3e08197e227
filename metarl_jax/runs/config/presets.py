"""Named settings, tuned or from a paper. A preset is a configuration that explicit options override."""

import dataclasses
from collections.abc import Callable
from typing import Any

from metarl_jax.checks import one_of
from metarl_jax.runs.config import AlgorithmConfig, EvaluationConfig, PolicyConfig, TrainConfig

PRESETS: dict[str, TrainConfig] = {
    # What two CPU cores simulate fastest on Brax.
    "reacher-goal": TrainConfig(
        task="reacher-goal",
        backend="spring",
        algorithm="promp",
        horizon=50,
        iterations=100,
        algorithm_options=AlgorithmConfig(tasks=20, episodes=20, inner_lr=(0.1,), outer_lr=1e-3),
        policy=PolicyConfig(min_std=0.1),
    ),
    # Rothfuss et al. (2019), half-cheetah forward/backward: about 160 M environment steps.
    "cheetah-dir": TrainConfig(
        task="cheetah-dir@promp2019",
        backend="spring",
        algorithm="promp",
        horizon=100,
        iterations=1001,
        algorithm_options=AlgorithmConfig(
            tasks=40,
            episodes=20,
            adaptation_steps=1,
            inner_lr=(0.1,),
            outer_lr=1e-3,
            epochs=5,
            clip=0.3,
            inner_kl_weight=5e-4,
            discount=0.99,
            lambda_=1.0,
        ),
        policy=PolicyConfig(hidden=(64, 64), activation="tanh", init_std=1.0),
    ),
    # The same family at a size for CPUs, from start to evaluation in a minute or two: at the small exploration noise of
    # action_scale=10 the dynamics are nearly linear, so twenty episodes suffice for an inner gradient; a shorter credit
    # horizon lowers its variance further. Later steps take halved rates, lest they add noise alone.
    "cheetah-dir-cpu": TrainConfig(
        task="cheetah-dir@promp2019",
        backend="mujoco",
        algorithm="promp",
        iterations=25,
        algorithm_options=AlgorithmConfig(
            tasks=20, episodes=20, inner_lr=(0.3, 0.15, 0.075), outer_lr=1e-3, epochs=8, discount=0.95, lambda_=0.95
        ),
        policy=PolicyConfig(min_std=0.2),
    ),
    # Two directions for a body that can fall: the small exploration noise of action_scale=10 keeps it on its feet.
    "ant-dir-cpu": TrainConfig(
        task="ant-dir@promp2019",
        backend="spring",
        algorithm="promp",
        horizon=100,
        iterations=60,
        algorithm_options=AlgorithmConfig(
            tasks=20, episodes=20, inner_lr=(0.3,), epochs=8, discount=0.95, lambda_=0.95
        ),
        policy=PolicyConfig(min_std=0.2),
    ),
    # Tasks that differ in their physics, on the robot that simulates fastest of those that run.
    "hopper-params-cpu": TrainConfig(
        task="hopper-params@promp2019",
        backend="spring",
        algorithm="promp",
        horizon=200,
        iterations=60,
        algorithm_options=AlgorithmConfig(
            tasks=20, episodes=20, inner_lr=(0.2,), epochs=5, discount=0.99, lambda_=0.97
        ),
        policy=PolicyConfig(min_std=0.2),
    ),
    # Duan et al. (2016): one trial of ten pulls; the optimum is known exactly.
    "bandit-2-arms": TrainConfig(
        task="bernoulli-bandit",
        algorithm="rl2",
        env_option=("arms=2",),
        horizon=10,
        iterations=400,
        algorithm_options=AlgorithmConfig(
            tasks=200, episodes=1, memory_size=32, minibatches=4, outer_lr=3e-3, discount=0.99, lambda_=0.95
        ),
        evaluation=EvaluationConfig(eval_tasks=10_000),
    ),
    # A hundred pulls of five arms: exploring is worth three pulls more than being greedy, so it takes large batches.
    "bandit-5-arms": TrainConfig(
        task="bernoulli-bandit",
        algorithm="rl2",
        env_option=("arms=5",),
        horizon=100,
        iterations=800,
        algorithm_options=AlgorithmConfig(
            tasks=400, episodes=1, epochs=2, minibatches=4, outer_lr=1.5e-3, discount=0.995, lambda_=0.97
        ),
        evaluation=EvaluationConfig(eval_tasks=10_000),
    ),
    # To look for the one cell that pays and to go back to it. All four episodes of a trial count.
    "grid-nav": TrainConfig(
        task="grid-nav",
        algorithm="rl2",
        iterations=2500,
        algorithm_options=AlgorithmConfig(tasks=40, episodes=4, minibatches=4, outer_lr=1e-3),
    ),
    # Navigation trained for one, two and three inner steps at once: the first stage alone is free.
    "point-nav": TrainConfig(
        task="point-nav",
        algorithm="promp",
        env_option=("action_scale=10.0",),
        iterations=160,
        algorithm_options=AlgorithmConfig(
            tasks=20, episodes=20, adaptation_steps=3, burn_in=1, inner_lr=(0.2, 0.1, 0.05), outer_lr=1e-3
        ),
        policy=PolicyConfig(init_std=0.5, min_std=0.1),
    ),
    # Finn et al. (2017), 2D navigation. Their code maps policy outputs of ±1 onto the point's largest step of 0.1, and
    # halves the inner rate after the first step, which only an evaluation with more steps than training takes.
    # Their losses are means over the steps taken.
    "point-nav-finn2017": TrainConfig(
        task="point-nav@finn2017",
        algorithm="maml-trpo",
        env_option=("action_scale=10.0",),
        horizon=100,
        iterations=100,
        algorithm_options=AlgorithmConfig(
            tasks=40,
            episodes=20,
            adaptation_steps=1,
            inner_lr=(0.5, 0.25),
            max_kl=0.01,
            advantage="gae",
            discount=0.99,
            lambda_=1.0,
            average="valid",
        ),
        policy=PolicyConfig(hidden=(100, 100), activation="relu", init_std=1.0),
    ),
}


def _finn2017(task: str, iterations: int, episodes: int, max_kl: float, later: float = 0.5) -> TrainConfig:
    """A robot of Finn et al. (2017), with the sizes that the file names of their published θ give.

    Those are in the scripts test_maml_*.py of github.com/cbfinn/maml_rl: so many iterations, episodes a task and a
    bound on the KL, and the rate after the first step as a multiple of 0.1.
    """
    return TrainConfig(
        task=f"{task}@rllab2017",
        backend="mujoco",
        algorithm="maml-trpo",
        horizon=200,
        iterations=iterations,
        algorithm_options=AlgorithmConfig(
            tasks=40,
            episodes=episodes,
            adaptation_steps=1,
            inner_lr=(0.1, 0.1 * later),
            max_kl=max_kl,
            advantage="gae",
            discount=0.99,
            lambda_=1.0,
            average="valid",
        ),
        policy=PolicyConfig(hidden=(100, 100), activation="relu", init_std=1.0),
    )


_PROMP, _BANDIT = PRESETS["cheetah-dir"], PRESETS["bandit-5-arms"]


def _duan2016(arms: int, entropy_weight: float, entropy_half_life: int) -> TrainConfig:
    """Bandits of Duan et al. (2016), with six times the pulls an update and about as many in all as they took.

    An entropy whose weight lasts: where it falls early, what is learned is to be greedy. Layers that read whole
    transitions, so that a pull and what it paid are one thing to count, learn it in a third of the pulls.
    """
    return dataclasses.replace(
        _BANDIT,
        env_option=(f"arms={arms}",),
        iterations=700,
        outer_lr_schedule="cosine",
        algorithm_options=dataclasses.replace(
            _BANDIT.algorithm_options,
            tasks=2400,
            minibatches=8,
            discount=0.997,
            entropy_weight=entropy_weight,
            entropy_half_life=entropy_half_life,
        ),
        policy=PolicyConfig(hidden=(64,), encoder=(64,)),
    )


PRESETS |= {
    "bandit-5-arms-duan2016": _duan2016(5, 0.02, 150),
    "bandit-10-arms-duan2016": _duan2016(10, 0.03, 250),
    # Duan et al. (2016): ten episodes of ten steps in a random MDP, one trial; every episode counts. Without encoder
    # and gate the memory learns the action that is best in all states, and stays there.
    "tabular-mdp-duan2016": dataclasses.replace(
        _BANDIT,
        task="tabular-mdp",
        env_option=(),
        horizon=10,
        iterations=450,
        outer_lr_schedule="cosine",
        algorithm_options=dataclasses.replace(
            _BANDIT.algorithm_options,
            tasks=1200,
            episodes=10,
            minibatches=8,
            memory_size=128,
            discount=0.9,
            lambda_=0.5,
            entropy_weight=0.03,
            entropy_half_life=100,
        ),
        policy=PolicyConfig(hidden=(128,), encoder=(128,), gated=True),
    ),
    # On the physics of the paper, and with the rate halved after the first of several steps.
    "cheetah-dir-promp2019": dataclasses.replace(
        _PROMP,
        backend="mujoco",
        algorithm_options=dataclasses.replace(_PROMP.algorithm_options, inner_lr=(0.1, 0.05)),
    ),
    # Their tasks that differ in physics: episodes of 200 steps, and half the inner rate.
    **{
        f"{family}-promp2019": dataclasses.replace(
            _PROMP,
            task=f"{family}@promp2019",
            backend="mujoco",
            horizon=200,
            algorithm_options=dataclasses.replace(_PROMP.algorithm_options, inner_lr=(0.05, 0.025)),
        )
        for family in ("hopper-params", "walker-params")
    },
    "cheetah-dir-finn2017": _finn2017("cheetah-dir", 100, 20, 0.02),
    "cheetah-vel-finn2017": _finn2017("cheetah-vel", 475, 10, 0.01),  # they tested it with 20 episodes a step
    "ant-dir-finn2017": _finn2017("ant-dir", 575, 40, 0.01, later=0.01),
    "ant-vel-finn2017": _finn2017("ant-vel", 375, 20, 0.01),
}


def get(name: str) -> TrainConfig:
    """A preset, which knows its own name.

    Raises:
        ValueError: there is none of this name.
    """
    one_of("preset", name, PRESETS)
    return dataclasses.replace(PRESETS[name], preset=name)


def for_device(platform: str) -> str:
    """The preset that suits a JAX platform ("cpu", "gpu", "tpu")."""
    return "cheetah-dir-cpu" if platform == "cpu" else "cheetah-dir"


def adopt(config: TrainConfig, accepted: dict[str, object]) -> tuple[TrainConfig, list[str]]:
    """Drops the preset's options that another algorithm or distribution, chosen explicitly, does not have.

    Args:
        config: with the preset's values under the explicit ones.
        accepted: the options of its algorithm.

    Returns:
        The configuration, and the names of the dropped options.
    """
    preset = None if config.preset is None else PRESETS.get(config.preset)
    if preset is None:  # or one that another version had, whose values are in the configuration
        return config, []

    def unfit(part: Any, before: Any, fits: Callable[[str], bool]) -> dict[str, None]:
        mine = {name: value for name, value in vars(part).items() if value is not None and name != "option"}
        return {name: None for name, value in mine.items() if value == getattr(before, name) and not fits(name)}

    options = policy = {}
    if config.algorithm != preset.algorithm:
        options = unfit(config.algorithm_options, preset.algorithm_options, lambda name: name in accepted)
    if config.policy.distribution == "beta":
        policy = unfit(config.policy, preset.policy, lambda name: name not in ("init_std", "min_std", "learn_std"))
    config = dataclasses.replace(
        config,
        algorithm_options=dataclasses.replace(config.algorithm_options, **options),
        policy=dataclasses.replace(config.policy, **policy),
    )
    return config, [*options, *policy]
