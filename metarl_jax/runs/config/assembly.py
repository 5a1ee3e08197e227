"""Environment and algorithm of a configuration. Importing this module does not import JAX, so that `--help` is fast."""

import ast
import dataclasses
import functools
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

from metarl_jax.checks import positive, unknown
from metarl_jax.runs.config.options import FLAG_NAMES
from metarl_jax.runs.config.settings import TrainConfig

if typing.TYPE_CHECKING:
    from metarl_jax.base import MetaAlgorithm, TaskEnv


class Built(NamedTuple):
    """What a configuration describes."""

    env: "TaskEnv"
    algorithm: "MetaAlgorithm"


Build = Callable[..., Built]
"""``(config, split="train", **overrides) → Built``: `build`, which finds everything by its name, or one like it"""


_SET_BY = {"policy": "--hidden, --activation, --init-std, …", "env": "--task"}
ENV_SET_BY = {"name": "the family's name", "split": "--split", "backend": "--backend", "horizon": "--horizon"}
"""What is no option of a family, and what sets it."""


def parse_options(flag: str, pairs: tuple[str, ...], set_by: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Parses options of the form NAME=VALUE. A value is a Python literal or else a word.

    Args:
        flag: name of the flag, for errors.
        pairs: values of the flag.
        set_by: names that have a flag of their own → that flag.

    Raises:
        ValueError: a pair has another form, repeats a name, or names an option that has a flag.
    """
    options = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (equals and name.isidentifier()):
            example = "remat=True" if flag == "option" else "action_scale=10.0"
            raise ValueError(f"--{flag} is {pair!r}; it must be NAME=VALUE, such as {example}")
        if set_by and name in set_by:
            raise ValueError(f"--{flag} is {pair!r}; {name} is set by {set_by[name]}")
        if name in options:
            raise ValueError(f"--{flag} is {pair!r}, and {name} was given before; give it once")
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # not a Python literal, so a bare word such as a part's name
            options[name] = text
    return options


def folded(config: TrainConfig) -> TrainConfig:
    """The same configuration, with what `--option` sets and a flag could have set where the flag would set it."""
    options = config.algorithm_options
    fields = {field.name for field in dataclasses.fields(options)}
    given = parse_options("option", options.option, _SET_BY)
    # A configuration is hashable, and so are its fields.
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if name in fields
    }
    values = {name: value for name, value in values.items() if isinstance(value, Hashable) and value is not None}
    rates = {name: (values[name],) for name in ("inner_lr", "std_lr") if isinstance(values.get(name), int | float)}
    others = tuple(pair for pair in options.option if pair.partition("=")[0] not in values)
    options = dataclasses.replace(options, **(values | rates), option=others)
    return dataclasses.replace(config, algorithm_options=options)


def _given(options: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if value is not None and name != "option"}


def algorithm_options(config: TrainConfig) -> dict[str, Any]:
    """The algorithm's options that differ from its own defaults; None is a value of those in `option` alone.

    Raises:
        ValueError: `option` is malformed, or names what has a value already.
    """
    own, further = _given(config.algorithm_options), parse_options("option", config.algorithm_options.option, _SET_BY)
    for name in own.keys() & further.keys():
        flag = FLAG_NAMES.get(name, name).replace("_", "-")
        raise ValueError(
            f"--option sets {name} to {further[name]!r}, and it is {own[name]!r} by --{flag} or the "
            "preset; set it by its flag alone"
        )
    options = own | further
    return {name: _number(value) if name in ("inner_lr", "std_lr") else value for name, value in options.items()}


def _number(rates: Any) -> Any:
    """A single rate as a number."""
    return rates[0] if isinstance(rates, tuple) and len(rates) == 1 else rates


def build(
    config: TrainConfig, split: str = "train", *, objects: Mapping[str, Any] | None = None, **overrides: Any
) -> Built:
    """Environment and algorithm of a configuration.

    Args:
        config: of the run.
        split: whose tasks the environment draws.
        objects: options that the configuration cannot hold; it names them in `own`.
        **overrides: algorithm options that replace the configuration's; None goes back to the default.

    Raises:
        ValueError: a name is unknown or a value is out of range, or the run has objects that no name stands for.
    """
    if set(config.own) != set(objects or {}):
        raise ValueError(
            f"a program made this run, with objects of its own ({', '.join(config.own)}), which its folder does not "
            f"hold; the same call of metarl_jax.runs.train goes on with it, and metarl_jax.load takes them: "
            f"load(folder, {', '.join(f'{name}=...' for name in config.own)})"
        )
    from metarl_jax import algorithms  # heavy, and not needed to show a help text

    algorithms.options(config.algorithm)  # a wrong name should not have to wait for a simulator to load
    if not (numbers := traced_numbers(config)) or objects:
        return with_env(config, _environment(config, split), objects, **overrides)
    numbers = {name: value for name, value in numbers.items() if overrides.get(name) is None}
    common = _without(config, numbers)
    env, make = _sharing(common, split, tuple(sorted(overrides.items())))
    return Built(env, make(**numbers))


def programs_of(config: TrainConfig) -> tuple[Any, ...]:
    """What is equal for runs that share their compiled programs, and hashable."""
    numbers = traced_numbers(config)
    return _without(config, numbers), config.seeds, tuple(sorted(numbers))


def _environment(config: TrainConfig, split: str) -> "TaskEnv":
    from metarl_jax import envs

    env_options = parse_options("env-option", config.env_option, ENV_SET_BY)
    env_options |= {"backend": config.backend, "horizon": config.horizon}
    env = envs.make(config.task, split=split, **env_options)
    if config.fix_task is not None:
        import jax

        training = envs.make(config.task, **env_options)
        env = envs.fix_task(env, training.sample_task(jax.random.key(config.fix_task)))
    return envs.reveal_task(env) if config.reveal_task else env


def with_env(config: TrainConfig, env: "TaskEnv", objects: Mapping[str, Any] | None = None, **overrides: Any) -> Built:
    """An environment and the algorithm of a configuration for it.

    Args:
        config: of the run.
        env: the environment.
        objects: options, the policy too, that no configuration can hold; they replace the configuration's.
        **overrides: algorithm options that replace both; None goes back to the default.

    Raises:
        ValueError: a name is unknown or a value is out of range.
    """
    from metarl_jax import algorithms

    def given(options: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if value is not None}

    options = {"policy": _given(config.policy)} | algorithm_options(config)
    options |= dict(objects or {}) | given(overrides) | _scheduled_rate(config, overrides.get("outer_lr"))
    return Built(env, algorithms.make(config.algorithm, env, **options))


def traced_numbers(config: TrainConfig) -> dict[str, float]:
    """The options that are arguments of this run's programs, with their values.

    Raises:
        ValueError: `traced` holds what is a number of no algorithm.
    """
    if not config.traced:
        return {}
    from metarl_jax import algorithms

    known = {name for algorithm in algorithms.names() for name in algorithms.numbers(algorithm)}
    for name in config.traced:
        if name not in known:
            raise unknown("traced", name, sorted(known))
    options, own = algorithm_options(config), algorithms.numbers(config.algorithm)
    values = {name: options.get(name) for name in config.traced if name in own}
    return {name: value for name, value in values.items() if isinstance(value, float)}


@functools.lru_cache(maxsize=4)
def _sharing(config: TrainConfig, split: str, overrides: tuple) -> tuple["TaskEnv", Callable]:
    """Environment and maker of algorithms of the runs that differ from this one in these numbers only.

    All of them have to get the same objects, since programs are shared by what is made of the same functions.
    """
    from metarl_jax.sharing import one_program

    env = _environment(config, split)
    return env, one_program(lambda **numbers: with_env(config, env, **dict(overrides) | numbers).algorithm)


def _without(config: TrainConfig, names: Iterable[str]) -> TrainConfig:
    """What runs have in common that differ in these options of the algorithm, in their seeds and folders."""
    options = dataclasses.replace(config.algorithm_options, **dict.fromkeys(names))
    return dataclasses.replace(config, algorithm_options=options, seed=0, seeds=1, folder=None, preset=None)


def _scheduled_rate(config: TrainConfig, rate: Any = None) -> dict[str, Any]:
    """The option `outer_lr` as a schedule of outer steps, of which a meta-iteration may take several; {} of none.

    Args:
        config: of the run.
        rate: its largest value, which may be traced; None: the configuration's.

    Raises:
        ValueError: the algorithm has no rate to schedule, or an optimiser of the user's own.
    """
    if config.outer_lr_schedule == "constant" and not config.warmup:
        return {}
    import optax

    from metarl_jax import algorithms

    options = algorithms.ALGORITHMS[config.algorithm].take(**algorithm_options(config))
    rate = getattr(options, "outer_lr", None) if rate is None else rate
    if rate is None:
        raise ValueError(f"{config.algorithm} has no outer rate; leave --outer-lr-schedule and --warmup out")
    positive("outer_lr", rate)
    each = 1  # of a plain function that was registered, which has no such property
    if hasattr(type(options), "steps_per_update"):
        try:
            each = options.steps_per_update
        except AttributeError as error:
            raise ValueError(
                f"{config.algorithm} was registered without {error.name!r}, on which its number of outer steps "
                "depends, so no schedule can count them; leave --outer-lr-schedule and --warmup out, or keep it"
            ) from error
    rising, falling = config.warmup * each, (config.iterations - config.warmup) * each
    then = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, falling),
        "cosine": optax.cosine_decay_schedule(rate, falling),
    }[config.outer_lr_schedule]
    if rising:
        then = optax.join_schedules([optax.linear_schedule(0.0, rate, rising), then], [rising])
    return {"outer_lr": then}


def usual_steps(trained: int, episodes: int) -> int:
    """L', the inner steps of an evaluation if none are asked for.

    Args:
        trained: L.
        episodes: N; 1 for memories too, whose trial is as long as in training.
    """
    return trained if episodes == 1 else max(3, trained)


def inner_rates(config: TrainConfig, steps: int) -> list[float]:
    """The rates of `steps` inner steps of an evaluation; none where the algorithm has no inner rate."""
    from metarl_jax import inner

    rates = algorithm_value(config, "inner_lr")
    if rates is None:
        return []
    trained, rule = (algorithm_value(config, name) for name in ("adaptation_steps", "inner_lr_beyond"))
    return inner.taken(rates, steps, 1 if trained is None else trained, "constant" if rule is None else rule)


_SIZES = {"tasks": 1, "episodes": 1}
"""What is assumed of an algorithm of the user's own that has no such option."""


def algorithm_value(config: TrainConfig, option: str) -> Any:
    """What an algorithm's option is in this run: as configured, else the algorithm's default, else None.

    None too where the option is an object, which the configuration does not hold.
    """
    if option in config.own:
        return None
    from metarl_jax import algorithms

    return algorithm_options(config).get(option, (_SIZES | algorithms.options(config.algorithm)).get(option))
