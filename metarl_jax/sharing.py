"""Algorithms that differ in numbers only, such as rates and weights, and share one compiled program."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import struct

from metarl_jax import checks
from metarl_jax.base import MetaAlgorithm
from metarl_jax.types import Key, Number


@struct.dataclass(eq=False)  # it is itself alone, as a function is: jit takes no other as a function
class Program:
    """A function with the numbers that it closes over, as a tree: jit takes them as arguments and not as constants.

    Two programs of the same function are thus compiled once, whatever their numbers.
    """

    function: Callable = struct.field(pytree_node=False)
    """``(numbers, *arguments) → result``, or ``(*arguments) → result`` without numbers"""
    numbers: dict[str, Number] | None = None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The function's result."""
        before = () if self.numbers is None else (self.numbers,)
        return self.function(*before, *arguments, **keywords)

    def rows(self, key: Key) -> "Program":
        """For R keys, the same with numbers [R], which `jax.vmap` maps over; for a single key, itself.

        Raises:
            ValueError: its numbers are those of `stacked` algorithms, and there is not a key for each.
        """
        for shape in {jnp.shape(number) for number in jax.tree.leaves(self)} - {(), key.shape}:
            given = f"{len(key)} keys" if key.ndim else "a single key"
            raise ValueError(f"{shape[0]} stacked algorithms need a key each, [{shape[0]}]; given: {given}")
        return jax.tree.map(lambda number: jnp.broadcast_to(number, key.shape), self) if key.ndim else self

    def row(self, run: int) -> "Program":
        """The same with the numbers of one of the runs."""
        return jax.tree.map(lambda number: number[run] if jnp.ndim(number) else number, self)


def program(function: Callable) -> Program:
    """The function as a `Program`: itself, or one without numbers."""
    return function if isinstance(function, Program) else Program(function)


def one_program(make: Callable[..., MetaAlgorithm]) -> Callable[..., MetaAlgorithm]:
    """Makes algorithms that share the compiled programs of training and evaluation, and differ in numbers.

    A number that an algorithm is made with is a constant of its programs, so each value costs a compilation. Here the
    numbers are arguments, which changes results by rounding only. `metarl_jax.training.train` and
    `metarl_jax.evaluation.evaluate` compile once for all members.

    Args:
        make: ``(**numbers) → algorithm``, with every number an option that may be traced: one that is no size. It must
            make an algorithm of the same sizes for all numbers.

    Returns:
        ``(**numbers) → algorithm``. It calls `make` with the numbers themselves, which checks them; the functions of
        the algorithm call it with traced ones. It raises a ValueError for what is no number.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=5)
        >>> made = mrl.one_program(lambda inner_lr: mrl.algorithms.maml(env, inner_lr=inner_lr, tasks=2, episodes=3))
        >>> for rate in (0.1, 0.2):  # compiles for the first alone
        ...     for chunk in mrl.training.train(made(inner_lr=rate), jax.random.key(0), iterations=2):
        ...         last = chunk
    """

    def init(numbers, key):
        return make(**numbers).init(key)

    def update(numbers, key, state):
        return make(**numbers).update(key, state)

    def adapt(numbers, key, theta, task, *options, **named):
        return make(**numbers).adapt(key, theta, task, *options, **named)

    def gradient(numbers, key, theta):
        return make(**numbers).gradient(key, theta)

    def member(**numbers: Number) -> MetaAlgorithm:
        checked = make(**numbers)
        numbers = {name: jax.tree.map(functools.partial(_real, name), value) for name, value in numbers.items()}
        functions = {f.__name__: Program(f, numbers) for f in (init, update, adapt, gradient)}
        shared = checked._replace(**functions)
        if checked.recipe is None:
            return shared
        return shared._replace(recipe=dataclasses.replace(checked.recipe, made=shared))

    return member


def _real(name: str, value: Any) -> Number:
    """The number as a Python float, so that all kinds of numbers share a program; a traced one as it is."""
    if checks.traced(value):
        return value
    if isinstance(value, str | bool) or callable(value) or jnp.shape(value) or not jnp.isreal(value):
        raise ValueError(
            f"{name} is {value!r}, which is no number that JAX may trace; set it where the algorithm is made: "
            f"mrl.one_program(lambda **numbers: make({name}=..., **numbers))"
        )
    return float(value)


def stacked(members: Sequence[MetaAlgorithm]) -> MetaAlgorithm:
    """R algorithms that one `one_program` made, as one for `metarl_jax.training.train` with R keys.

    Run r has the numbers of member r. Its state and its metrics are those of seed r of other algorithms. To adapt its θ
    take member r: `adapt` and `gradient` raise a ValueError here.

    Raises:
        ValueError: there is none, one has no numbers, or they are not of one `one_program` with the same names.
    """
    if not members:
        raise ValueError("there are no members to stack; give at least one")
    first = program(members[0].update)
    for member in members:
        other = program(member.update)
        if first.numbers is None or other.numbers is None or jax.tree.structure(other) != jax.tree.structure(first):
            raise ValueError("members are not algorithms that one one_program made by the same names")
    functions = {}
    for name in ("init", "update"):
        programs = [program(getattr(member, name)) for member in members]
        functions[name] = jax.tree.map(lambda *numbers: jnp.asarray(numbers, float), *programs)
    return members[0]._replace(**functions, adapt=_of_a_member, gradient=_of_a_member, recipe=None)


def _of_a_member(*_: Any, **__: Any) -> NoReturn:
    raise ValueError("stacked algorithms are for training; adapt, evaluate and differentiate each member by itself")
