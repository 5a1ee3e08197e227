"""Functions of an environment and an option struct, called with the struct's fields as keywords.

An option is declared once, as a field of a frozen dataclass: name, type, default and, in the string below it, what it
means. The signature, the docstring, the check of a call, `metarl_jax.algorithms.options`, the command line and the
tables of the documentation are all derived from there.
"""

import ast
import dataclasses
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from metarl_jax.base import MetaAlgorithm, TaskEnv
from metarl_jax.checks import one_of, unknown
from metarl_jax.recipes import Recipe

P = ParamSpec("P")
Options = TypeVar("Options")
Result = TypeVar("Result")
Struct = TypeVar("Struct")

_RATES = "outer_lr, the rate of the outer loop, or inner_lr, that of the inner loop"
OTHER_NAMES = {
    "learning_rate": _RATES,
    "lr": _RATES,
    "gamma": "discount",
    "gae_lambda": "lambda_",
    "batch_size": "tasks, B, or episodes, N",
    "num_tasks": "tasks",
    "hidden_sizes": "policy={'hidden': (64, 64)}",
}
"""Names that other libraries use for an option, and its name here."""


class ByKeyword(Protocol, Generic[P, Result]):
    """What `by_keyword` returns: ``f(env, tasks=40)`` is ``f.build(env, f.options(tasks=40))``."""

    options: type
    """the option struct"""
    build: Callable[[TaskEnv, Any], Result]
    """``(env, options) → result``"""
    take: Callable[..., Any]
    """``**keywords → options``; raises ValueError where one is unknown, refused or missing"""

    def __call__(self, env: TaskEnv, *args: P.args, **options: P.kwargs) -> Result:
        """The result for an environment, with these options."""
        ...


def by_keyword(
    options: Callable[P, Options], name: str | None = None
) -> Callable[[Callable[[TaskEnv, Options], Result]], ByKeyword[P, Result]]:
    """Decorates ``f(env, options)`` so that it is called as ``f(env, **fields_of_options)``.

    Type checkers and editors see every field as a keyword; the docstring gains an ``Args`` section with all of them.

    Args:
        options: a frozen, keyword-only dataclass. A class attribute `refused`, if there is one, maps names that the
            function does not take to the reason, which completes "NAME is VALUE, and". Those names may be given as
            None, or as in its class attribute `off`. A method `wrapped`, if there is one, is called with the function
            and the environment in the place of the function, which it calls with the environment and itself.
        name: how errors call the function; None: its own name, with dashes.

    Raises:
        ValueError: (the decorated function) an option is unknown, refused, or missing, or `env` is not an environment.
    """

    def decorate(build: Callable[[TaskEnv, Options], Result]) -> ByKeyword[P, Result]:
        title = name or build.__name__.replace("_", "-")

        def take(**keywords: Any) -> Options:
            return cast(Callable[..., Options], options)(**_checked(title, cast(type, options), keywords))

        @functools.wraps(build)
        def call(env: TaskEnv, **keywords: Any) -> Result:
            env, taken = _environment(env), take(**keywords)
            wrapped = getattr(taken, "wrapped", None)
            made = build(env, taken) if wrapped is None else wrapped(build, env)
            return _with_recipe(made, title, env, taken, keywords)

        return _with_attributes(call, build, take, cast(type, options))

    return decorate


_ALWAYS = ("tasks", "episodes", "adaptation_steps")
"""Options that are told even where they are the defaults."""


def _with_recipe(result: Result, title: str, env: TaskEnv, options: Any, given: Mapping[str, Any]) -> Result:
    """The result; an algorithm with the call that made it."""
    if not isinstance(result, MetaAlgorithm):
        return result
    fields = in_order(type(options))
    # Texts are compared, since values may be arrays, whose equality is no single truth.
    values = {name: _in_words(getattr(options, name)) for name in fields}
    changed = [name for name, field in fields.items() if values[name] != _in_words(default_of(field))]
    named = [f"{name}={values[name]}" for name in dict.fromkeys((*_ALWAYS, *changed)) if name in values]
    about = ", ".join([repr(title), f"env={env.name!r}", *named])
    given = {name: value for name, value in given.items() if name in fields}
    return cast(Any, result._replace(recipe=Recipe(title, given, result, env, about)))


def _in_words(value: Any) -> str:
    """A value in a few words: itself, a function's name, or the type of what has no short text."""
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_in_words(one)}' for key, one in value.items())}}}"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__}(…)" if len(text) > 60 or " at 0x" in text else text


def _with_attributes(call: Callable, build: Callable, take: Callable, options: type) -> Any:
    decorated = cast(Any, call)
    decorated.options, decorated.build, decorated.take = options, build, take
    decorated.__signature__ = _signature(options, build)
    decorated.__doc__ = _documented(build, options)
    return decorated


_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ATTRIBUTES = ("refused", "off", "kind", "trials_per_task", "steps_per_update", "steps_per_pass")


def of_function(
    name: str, function: Callable[..., Result], like: type, without: Sequence[str] = ()
) -> ByKeyword[..., Result]:
    """A plain function with an option struct.

    Its options are its parameters that have defaults and, if it takes ``**common``, the fields of `like`. A call hands
    on the keywords that it was given, and no defaults: those are the function's own business.

    Args:
        name: how errors call the function.
        function: ``(env, *, policy=None, **options) → result``.
        like: the struct of the function that takes ``**common``.
        without: fields of `like` that `function` sets itself.

    Raises:
        ValueError: the function has another signature, or `like` has no field in `without`.
    """
    struct = _struct_of(name, function, like, without)

    def take(**keywords: Any) -> Any:
        return struct(**_checked(name, struct, keywords))

    def build(env: TaskEnv, options: Any) -> Result:
        return function(env, **{option: getattr(options, option) for option in in_order(struct)})

    @functools.wraps(function)
    def call(env: TaskEnv, **keywords: Any) -> Result:
        env, given = _environment(env), _checked(name, struct, keywords)
        return _with_recipe(function(env, **given), name, env, struct(**given), given)

    build.__doc__ = function.__doc__
    return _with_attributes(call, build, take, struct)


def _struct_of(name: str, function: Callable, like: type, without: Sequence[str]) -> type:
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # annotations that are only known to a type checker
        signature = inspect.signature(function)
    parameters = tuple(signature.parameters.values())
    own = {parameter.name: parameter for parameter in parameters[1:] if parameter.kind is not parameter.VAR_KEYWORD}
    for parameter in own.values():
        if parameter.default is parameter.empty or parameter.kind not in _BY_NAME:
            raise ValueError(f"parameter {parameter.name!r} of {name!r} needs a default, so that it is an option")
        if parameter.name in _ATTRIBUTES:
            raise ValueError(f"{name!r} has a parameter {parameter.name!r}, which is no name for an option; rename it")
    base = like if len(own) < len(parameters) - 1 else None
    shared = in_order(base) if base else {}
    takes_env = parameters and parameters[0].kind in (inspect.Parameter.POSITIONAL_ONLY, _BY_NAME[1])
    if not takes_env or "policy" not in own.keys() | shared.keys():
        raise ValueError(
            f"{name!r} must be called as function(env, policy=None, ...), so that scripts can choose a policy"
        )
    for option in without:
        one_of(f"option in without of {name!r}", option, shared)
    texts = descriptions(base) if base else {}
    fields: list[tuple[str, Any, Any]] = [
        (key, type(p.default) if p.annotation is p.empty else p.annotation, _field(p.default)) for key, p in own.items()
    ]
    for key, field in shared.items():
        if key not in own and key not in without:
            metadata = {"description": texts[key]} if key in texts else None
            fields.append((key, field.type, _field(default_of(field), metadata)))
    attributes = {key: inspect.getattr_static(base, key) for key in _ATTRIBUTES if hasattr(base, key)}
    return dataclasses.make_dataclass("Options", fields, frozen=True, kw_only=True, namespace=attributes)


def _field(default: Any, metadata: Mapping[str, Any] | None = None) -> Any:
    if type(default).__hash__ is None:  # which a dataclass takes for mutable
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field, `dataclasses.MISSING` if it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def narrowed(kind: Callable[Concatenate[P], Struct], options: Any, **changes: Any) -> Struct:
    """The struct `kind` with the values of `options`, as far as that has them, and these changes."""
    names = {field.name for field in dataclasses.fields(cast(Any, kind))} - changes.keys()
    return cast(Any, kind)(**{name: getattr(options, name) for name in names if hasattr(options, name)}, **changes)


def in_order(options: type) -> dict[str, dataclasses.Field]:
    """The fields of an option struct: those that the subclass declares, then those of its base classes."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    declared = {name: None for kind in options.__mro__ for name in getattr(kind, "__annotations__", {})}
    return {name: fields[name] for name in declared if name in fields}


def defaults(options: type) -> dict[str, Any]:
    """The fields of an option struct and their defaults; required ones are left out."""
    fields = in_order(options)
    values = {name: default_of(field) for name, field in fields.items()}
    return {name: value for name, value in values.items() if value is not dataclasses.MISSING}


def descriptions(options: type) -> dict[str, str]:
    """What each field means, in one line: the string below it, in the class or in the nearest base class."""
    texts: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        texts |= _in_source(kind.__module__).get(kind.__qualname__, {})
    fields = dataclasses.fields(options)
    texts |= {field.name: field.metadata["description"] for field in fields if "description" in field.metadata}
    return {name: texts[name] for name in in_order(options) if name in texts}


@functools.cache
def _in_source(module: str) -> dict[str, dict[str, str]]:
    """Class → field → the string below it. Empty where there is no source, as in an interactive session."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return {}
    classes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            below = zip(node.body, node.body[1:], strict=False)
            classes[node.name] = {
                field.target.id: " ".join(text.value.value.split())
                for field, text in below
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return classes


def _checked(name: str, options: type, given: Mapping[str, Any]) -> dict[str, Any]:
    accepted = in_order(options)
    refused, off = getattr(options, "refused", {}), getattr(options, "off", {})
    for option, value in given.items():
        if option in accepted:
            continue
        if option in refused:
            if value is not None and not (option in off and value == off[option]):
                raise ValueError(f"{option} is {value!r}, and {refused[option]}; leave {option} out")
        elif option in OTHER_NAMES:
            raise ValueError(f"unknown option of {name} {option!r}: here it is {OTHER_NAMES[option]}")
        else:
            raise unknown(f"option of {name}", option, accepted)
    for option, field in accepted.items():
        if default_of(field) is dataclasses.MISSING and option not in given:
            raise ValueError(f"{name} needs {option}=..., which has no default")
    return {option: value for option, value in given.items() if option in accepted}


def _environment(env: Any) -> TaskEnv:
    for field in dataclasses.fields(TaskEnv):
        if field.name != "recipe" and not hasattr(env, field.name):
            raise ValueError(
                f"env is {env!r}, without {field.name!r}; it must be a metarl_jax.TaskEnv, such as "
                "metarl_jax.envs.make(name) returns"
            )
    return env


def _signature(options: type, build: Callable) -> inspect.Signature:
    by_name = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("env", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=TaskEnv)]
    for field in in_order(options).values():
        default = inspect.Parameter.empty if (value := default_of(field)) is dataclasses.MISSING else value
        parameters.append(inspect.Parameter(field.name, by_name, default=default, annotation=field.type))
    return inspect.Signature(parameters, return_annotation=inspect.signature(build).return_annotation)


def _documented(build: Callable, options: type) -> str:
    """The function's docstring, and an ``Args`` section made of the struct's."""
    texts, lines = descriptions(options), ["env: p(M) and its MDPs"]
    for option, field in in_order(options).items():
        default = "" if (value := default_of(field)) is dataclasses.MISSING else f" (default: {value!r})"
        lines.append(f"{option}: {texts.get(option, '')}{default}")
    args = [textwrap.fill(line, 112, initial_indent=" " * 4, subsequent_indent=" " * 8) for line in lines]
    return "\n".join([inspect.getdoc(build) or "", "", "Args:", *args])
