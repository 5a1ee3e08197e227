"""Finds mutable Python variables that `sample_task` reads: a compiled program keeps their values from trace time.

The search covers numbers in dictionaries and one-element lists, in closures and among a module's globals, and global
variables that a function of the same module assigns with ``global``. It skips longer lists and arrays, which are
usually tables, and attributes of objects, which are usually settings: both are normally constant.
"""

import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax

from metarl_jax.envs.interface import constants
from metarl_jax.types import Key

_ADVICE = (
    "jax.jit freezes what it reads when it is traced, so a later change goes unnoticed; "
    "make a new environment for it, or, if it is a constant, hold it in a tuple"
)


_JITTED: Any = jax.stages.Wrapped  # of any type, since it declares less than what jax.jit returns has


def frozen_reads(sample_task: Callable, key: Key) -> Iterator[str]:
    """One sentence per mutable variable that changes the trace of `sample_task`."""
    reached = list(_reached(sample_task))
    jitted = [layer for function in reached for layer in _layers(function) if isinstance(layer, _JITTED)]

    def forget() -> None:
        """Without it, what is jitted would keep its trace whatever is written."""
        for function in jitted:
            function.clear_cache()

    def traced() -> str:
        """The traced program with its constants, as text; if tracing fails, the error."""
        forget()
        try:
            program = jax.make_jaxpr(lambda key: sample_task(key))(key)  # a new function, which is in no cache
        except Exception as error:
            return repr(error)
        return f"{program} {[constant.tolist() for constant in constants(program)]}"

    before = traced()
    for name, read, write in (variable for function in reached for variable in _mutable(function)):
        old = read()
        try:
            write(old + 1)
            depends = traced() != before
        finally:
            write(old)
            forget()
        if depends:
            yield f"sample_task reads the variable {name}: {_ADVICE}"


def _layers(function: Any) -> Iterator[Any]:
    """A function and what is inside of it: what jax.jit, functools.partial and functools.wraps were given."""
    while True:
        yield function
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, (types.FunctionType, _JITTED)) and hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return


def _plain(function: Any) -> list[types.FunctionType]:
    """Those of a function's layers that are written in Python, but for JAX's and NumPy's."""
    plain = [layer for layer in _layers(function) if isinstance(layer, types.FunctionType)]
    return [layer for layer in plain if not (layer.__module__ or "").startswith(("jax", "numpy"))]


def _reached(function: Any, depth: int = 3) -> Iterator[Any]:
    """The function and those that it refers to, as they are bound, but for JAX's and NumPy's."""
    layers = _plain(function)
    if depth == 0 or not layers:
        return
    yield function
    for plain in layers:
        for _, value in _bound(plain):
            yield from _reached(value, depth - 1)


def _bound(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values of a function's closure, and of the globals that it reads."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for name in _names(function.__code__, "LOAD_GLOBAL"):
        yield name, function.__globals__.get(name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Variable = tuple[str, Callable[[], Any], Callable[[Any], None]]
"""name, getter, setter"""


def _mutable(function: Any) -> Iterator[Variable]:
    """The mutable variables that a function can read."""
    for layer in _plain(function):
        yield from _mutable_in(layer)


def _mutable_in(plain: types.FunctionType) -> Iterator[Variable]:
    variables = plain.__globals__
    for name, value in _bound(plain):
        yield from _numbers_in(name, value)
        if name in plain.__code__.co_freevars or not _is_number(value):
            continue
        if any(name in _names(c, "STORE_GLOBAL") for c in _codes(variables)):
            yield name, lambda name=name: variables[name], lambda new, name=name: variables.__setitem__(name, new)


def _numbers_in(name: str, value: Any) -> Iterator[Variable]:
    keys: Any = ()
    if type(value) is dict:
        keys = value
    elif type(value) is list and len(value) == 1:
        keys = (0,)
    for key in list(keys):
        if _is_number(value[key]):
            yield (
                f"{name}[{key!r}]",
                lambda key=key: value[key],
                lambda new, key=key: value.__setitem__(key, new),
            )


def _names(code: types.CodeType, operation: str) -> set[str]:
    """The variables on which `code`, or a function defined in it, performs a bytecode operation."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == operation}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant, operation)
    return names


def _codes(variables: dict[str, Any]) -> Iterator[types.CodeType]:
    for value in list(variables.values()):
        if isinstance(value, types.FunctionType) and value.__globals__ is variables:
            yield value.__code__
