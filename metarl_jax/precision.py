"""Float32 products: what the library multiplies is exact to float32's rounding on every platform.

An accelerator multiplies float32 matrices in fewer bits unless it is told otherwise: a GPU in TF32, with 10 bits of
mantissa, a TPU in bfloat16, with 7. That is an error of 1e-3 in Brax's rotations and contacts, in a baseline's
prediction, in conjugate gradients. On a CPU nothing changes.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")

_config: Any = jax.config  # whose types do not list its options


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose matrix products are traced with the precision "highest" unless the user has chosen one.

    A choice is the environment variable JAX_DEFAULT_MATMUL_PRECISION, ``jax.config.update`` of that name in lower
    case, or ``with jax.default_matmul_precision("tensorfloat32"):`` around the trace; "default" is one too, and gives
    the platform's own. Derivatives of a product have its precision, wherever they are taken.

    Args:
        function: of arrays, traced or not.
    """

    @functools.wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> R:
        if _config.jax_default_matmul_precision is not None:
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return precise
