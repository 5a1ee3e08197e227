"""States in the form of a checkpoint: leaves by path, their types and shapes, and a digest to verify them."""

import hashlib
import json
import types
from typing import Any

import jax
import numpy as np

from metarl_jax.types import PyTree, is_key

_RECORD: dict[str, tuple[type, ...]] = {
    "iteration": (int,),
    "score": (int, float, types.NoneType),
    "configuration": (dict,),
    "layout": (dict,),
    "versions": (dict, types.NoneType),
    "hardware": (dict, types.NoneType),
}
"""Fields of a checkpoint's record and their types, without the digest."""


def by_path(state: PyTree) -> dict[str, Any]:
    """Leaves by path; typed keys are converted to their data, independent of orbax's handling of keys."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): jax.random.key_data(x) if is_key(x) else x for path, x in paths}


def layout(state: PyTree) -> dict[str, str]:
    """Type and shape of each leaf by path, such as ``float32[64,64]``."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}".replace(" ", "") for path, leaf in by_path(state).items()}


def digest(leaves: dict[str, np.ndarray]) -> str:
    """SHA-256 over paths, types, shapes and bytes of all leaves."""
    total = hashlib.sha256()
    for path, value in leaves.items():
        total.update(f"{path} {value.dtype} {value.shape} ".encode() + value.tobytes())
    return total.hexdigest()


def proof(record: dict[str, Any]) -> str:
    """SHA-256 of a record."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def verified(record: dict[str, Any], schema: int) -> dict[str, Any]:
    """Verifies a record and removes its proof.

    Raises:
        ValueError: the proof does not match the record, or a field does not have the type required by `schema`.
    """
    if record.pop("proof", None) != proof(record):
        raise ValueError("its record does not match its digest")
    for name, kinds in _RECORD.items() if record.get("schema") == schema else ():
        if not isinstance(record.get(name), kinds):
            raise ValueError(f"its record says {record.get(name)!r} for its {name}")
    return record
