"""Finds mutable Python variables that `sample_task` reads: a compiled program keeps their values from trace time.

The search covers numbers in dictionaries and one-element lists, in closures and among a module's globals, and global
variables that a function of the same module assigns with ``global``. It skips longer lists and arrays, which are
usually tables, and attributes of objects, which are usually settings: both are normally constant.
"""

import dis
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.types import Key

_ADVICE = (
    "jax.jit freezes what it reads when it is traced, so a later change goes unnoticed; "
    "make a new environment for it, or, if it is a constant, hold it in a tuple"
)


def frozen_reads(sample_task: Callable, key: Key) -> Iterator[str]:
    """One sentence per mutable variable that changes the trace of `sample_task`."""
    before = _traced(sample_task, key)
    for name, read, write in _mutable(sample_task):
        old = read()
        try:
            write(old + 1)
            depends = _traced(sample_task, key) != before
        finally:
            write(old)
        if depends:
            yield f"sample_task reads the variable {name}: {_ADVICE}"


def _traced(function: Callable, key: Key) -> str:
    """The traced program with its constants, as text; if tracing fails, the error."""
    try:
        closed = jax.make_jaxpr(lambda key: function(key))(key)  # a new function, which is in no cache
    except Exception as error:
        return repr(error)
    consts = [c for c in closed.consts if not jnp.issubdtype(c.dtype, jax.dtypes.prng_key)]
    return f"{closed} {[np.asarray(const).tolist() for const in consts]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Variable = tuple[str, Callable[[], Any], Callable[[Any], None]]
"""name, getter, setter"""


def _mutable(function: Callable, depth: int = 3) -> Iterator[Variable]:
    """The mutable variables that `function`, and functions it refers to, can read."""
    if not isinstance(function, types.FunctionType) or depth == 0:
        return
    code, variables = function.__code__, function.__globals__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    for name, cell in cells.items():
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        yield from _numbers_in(name, value, depth)
    for name in _names(code, "LOAD_GLOBAL"):
        value = variables.get(name)
        yield from _numbers_in(name, value, depth)
        if _is_number(value) and any(name in _names(c, "STORE_GLOBAL") for c in _codes(variables)):
            yield name, lambda name=name: variables[name], lambda new, name=name: variables.__setitem__(name, new)


def _numbers_in(name: str, value: Any, depth: int) -> Iterator[Variable]:
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
    if isinstance(value, types.FunctionType) and not (value.__module__ or "").startswith(("jax", "numpy")):
        yield from _mutable(value, depth - 1)


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
