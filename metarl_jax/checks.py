"""Checks of what users hand in: one line that names the value, what is allowed and, for names, the nearest one.

This module loads no JAX, so that a script can refuse bad input at once.
"""

import difflib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any


def unknown(kind: str, value: object, allowed: Iterable[str]) -> ValueError:
    """The error for a name that does not exist, with the nearest names that do."""
    names = list(allowed)
    close = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return ValueError(f"unknown {kind} {value!r}: {hint}choose from {', '.join(names) or '(none)'}")


def choose(kind: str, value: str | Callable, registered: Mapping[str, Any]) -> Any:
    """A registered part by its name, or the user's own, if `value` is a function.

    Raises:
        ValueError: the name is not registered.
    """
    if callable(value):
        return value
    if not isinstance(value, str) or value not in registered:
        raise unknown(kind, value, sorted(registered))
    return registered[value]


def one_of(kind: str, value: Any, allowed: Iterable[str]) -> str:
    """`value` if it is one of the words, else a ValueError with the nearest of them."""
    if value not in (allowed := tuple(allowed)):
        raise unknown(kind, value, allowed)
    return value


def traced(value: Any) -> bool:
    """Whether JAX traces the value, so that it is no number yet; only a number, of shape [], may be."""
    jax = sys.modules.get("jax")  # without it nothing is traced
    return jax is not None and isinstance(value, jax.core.Tracer) and not value.shape


def is_on(weight: Any) -> bool:
    """Whether a term with this weight has to be computed: unless it is 0, and a traced weight may be anything."""
    return traced(weight) or bool(weight)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def integer(name: str, value: Any, least: int = 1, bits: int = 31) -> int:
    """`value` if it is an integer, NumPy's included, of at least `least` and below 2**bits, else a ValueError.

    JAX counts in int32, in which a larger size would overflow only where it is used, and its seeds have 32 bits.
    """
    if traced(value):
        raise ValueError(
            f"{name} is traced by JAX, as an argument of jit, vmap or one_program; it must be a Python integer, since "
            "shapes depend on it"
        )
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}")
    if value >= 2**bits:
        raise ValueError(f"{name} is {value!r}; it must be an integer below 2**{bits}")
    return int(value)


def seed(name: str, value: Any) -> int:
    """`value` if it is a seed for `jax.random.key`, else a ValueError."""
    return integer(name, value, least=0, bits=32)


def seeds(first: Any, count: int) -> range:
    """The seeds `first_seed` and the `count` − 1 that follow, if all are seeds, else a ValueError."""
    if seed("first_seed", first) + count > 2**32:
        raise ValueError(f"first_seed is {first}; the last of {count} must stay below 2**32")
    return range(first, first + count)


def function(name: str, value: Any) -> Callable:
    """`value` if it can be called, else a ValueError."""
    if not callable(value):
        raise ValueError(f"{name} is {value!r}; it must be a function")
    return value


def called_as(name: str, value: Any, *arguments: str) -> Callable:
    """`value` if it can be called with these positional arguments, else a ValueError."""
    call = f"{name.partition(' ')[0]}({', '.join(arguments)})"
    if not callable(value):
        raise ValueError(f"{name} is {value!r}; it must be a function, called as {call}")
    try:
        signature = inspect.signature(value)
    except ValueError:  # some built-in functions have no signature
        return value
    try:
        signature.bind(*arguments)
    except TypeError:
        raise ValueError(f"{name} has the arguments {signature}; it is called as {call}") from None
    return value


def boolean(name: str, value: Any) -> bool:
    """`value` if it is True or False, else a ValueError; a word such as "no" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return value


def finite(name: str, value: Any) -> float:
    """`value` if it is a finite number, else a ValueError. A traced number cannot be checked, here and below."""
    if traced(value):
        return value
    if not _number(value):
        raise ValueError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def positive(name: str, value: Any) -> float:
    """`value` if it is a positive finite number, else a ValueError."""
    if traced(value):
        return value
    if not _number(value) or value <= 0:
        raise ValueError(f"{name} is {value!r}; it must be a positive number")
    return float(value)


def non_negative(name: str, value: Any) -> float:
    """`value` if it is a finite number of at least 0, else a ValueError."""
    if traced(value):
        return value
    if not _number(value) or value < 0:
        raise ValueError(f"{name} is {value!r}; it must be a number of at least 0")
    return float(value)


def schedule(name: str, function: Callable) -> Any:
    """What a schedule gives at step 0: a number, or a traced one if it is made of one.

    Raises:
        ValueError: it cannot be traced at a step's number, or gives no number.
    """
    import jax  # the rest of this module does without

    try:
        program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((), "int32"))
        (shape,) = (value.shape for value in program.out_avals)
    except Exception as error:  # whatever a function of the user's may raise
        raise ValueError(
            f"{name} is a function that cannot be traced at the number of a step ({type(error).__name__}); write it "
            "with jax.numpy, or take a schedule of optax"
        ) from error
    if shape:
        raise ValueError(f"{name} is a schedule that gives an array of shape {shape}; it must give a number")
    if any(map(traced, program.consts)):
        return function(jax.numpy.zeros((), "int32"))
    with jax.ensure_compile_time_eval():  # an algorithm may be made inside of a function that JAX traces
        return float(function(jax.numpy.zeros((), "int32")))


def share(name: str, value: Any) -> float:
    """`value` if it is a number in [0, 1], else a ValueError."""
    if traced(value):
        return value
    if not _number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; it must lie in [0, 1]")
    return float(value)


def interval(name: str, value: Any) -> tuple[float, float]:
    """`value` if it is a pair (low, high) with low < high, else a ValueError."""
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(_number, value)) or value[0] >= value[1]:
        raise ValueError(f"{name} is {value!r}; it must be a pair (low, high) of numbers with low < high")
    return float(value[0]), float(value[1])
