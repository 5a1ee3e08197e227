"""Float32 matrix products with float32 accuracy on all platforms.

By default, accelerators multiply float32 matrices with fewer bits: a GPU in TF32, with a 10-bit mantissa, a TPU in
bfloat16, with 7 bits. The error is about 1e-3 in Brax's rotations and contacts, in baselines and in conjugate
gradients. On a CPU nothing changes.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")

_config: Any = jax.config  # jax.config is untyped: its options are not declared


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Traces the function's matrix products with precision "highest", unless the user has chosen a precision.

    Users choose with the environment variable JAX_DEFAULT_MATMUL_PRECISION, with ``jax.config.update`` of the same name
    in lower case, or with ``jax.default_matmul_precision("tensorfloat32")`` around the trace. The value "default" gives
    the platform's default. Derivatives of a product have the precision of the product.

    Args:
        function: a function of arrays, traced or not.
    """

    @functools.wraps(function)
    def precise(*args: P.args, **kwargs: P.kwargs) -> R:
        if _config.jax_default_matmul_precision is not None:
            return function(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return precise
