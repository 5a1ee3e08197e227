"""Checkpoints of a run: orbax writes them, a digest in each proves it whole, `meta.json` says what they belong to."""

import hashlib
import importlib.metadata
import json
import logging
import platform
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from metarl_jax.runs.config import TrainConfig, differences, from_json, to_json
from metarl_jax.types import MetaState, PyTree

SCHEMA = 1
"""Changes whenever an older program could no longer read what this one writes."""

_PACKAGES = ("metarl-jax", "jax", "jaxlib", "flax", "optax", "brax", "orbax-checkpoint")


def versions() -> dict[str, str]:
    """Installed versions of what determines a run's numbers; a package that is missing is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(state: PyTree) -> dict[str, Any]:
    """Leaves by their path, typed keys as their data: orbax's own treatment of keys then does not matter."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): jax.random.key_data(x) if _is_key(x) else x for path, x in paths}


def layout(state: PyTree) -> dict[str, str]:
    """Type and shape of every leaf, by its path, such as ``float32[64,64]``."""
    return {path: f"{leaf.dtype}{list(leaf.shape)}".replace(" ", "") for path, leaf in _leaves(state).items()}


def digest(state: PyTree) -> str:
    """SHA-256 over paths, types, shapes and bytes of all leaves."""
    total = hashlib.sha256()
    for path, leaf in _leaves(state).items():
        value = np.asarray(leaf)
        total.update(f"{path} {value.dtype} {value.shape} ".encode() + value.tobytes())
    return total.hexdigest()


class Checkpoints:
    """The checkpoints of one run folder, under ``checkpoints/ITERATION``, of which the newest `keep` stay.

    `meta.json` beside them holds schema, configuration, versions and the layout of the state.
    """

    def __init__(self, folder: Path, config: TrainConfig, state: MetaState, *, keep: int = 3, create: bool = False):
        """Opens a folder, or makes one.

        Args:
            folder: the run folder.
            config: the run that wants to write or to go on.
            state: an example of its state; only structure, types and shapes are used.
            keep: how many to keep.
            create: write `meta.json`; else compare with the one that is there.

        Raises:
            ValueError: the folder holds no readable `meta.json`, or one of another schema, configuration or layout.
        """
        self.directory = folder.resolve() / "checkpoints"
        self.notes: list[str] = []
        """what the user should be told: damaged checkpoints, other versions"""
        self._template = state
        meta = {
            "schema": SCHEMA,
            "versions": versions(),
            "configuration": json.loads(to_json(config)),
            "layout": layout(state),
        }
        if create:
            self.directory.mkdir(parents=True)
            (self.directory / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")
        else:
            self._compare(meta, config)
        # orbax reports on its own logger what concerns its developers; what concerns the user is in `notes`.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=False, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_names=("state", "proof"), item_handlers=None
        )

    def _compare(self, meta: dict[str, Any], config: TrainConfig) -> None:
        path = self.directory / "meta.json"
        if not path.is_file():
            raise ValueError(f"{self.directory} holds no meta.json, so it is no checkpoint folder of this library")
        try:
            stored = json.loads(path.read_text())
            schema, configuration, stored_layout = stored["schema"], stored["configuration"], stored["layout"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error
        if schema != SCHEMA:
            raise ValueError(f"{path}: schema is {schema!r}; this version reads schema {SCHEMA}")
        changed = differences(from_json(json.dumps(configuration), str(path)), config)
        if changed:
            raise ValueError(f"the checkpoints in {self.directory} are of another configuration: {'; '.join(changed)}")
        for leaf in sorted(stored_layout.keys() | meta["layout"].keys()):
            old, new = stored_layout.get(leaf, "absent"), meta["layout"].get(leaf, "absent")
            if old != new:
                raise ValueError(f"the checkpoints in {self.directory} hold another state: {leaf} was {old}, now {new}")
        for package, version in versions().items():
            if stored.get("versions", {}).get(package) != version:
                self.notes.append(
                    f"the checkpoint was written with {package} {stored.get('versions', {}).get(package)}, this is "
                    f"{version}: numbers may differ from those of an uninterrupted run"
                )

    def save(self, state: MetaState) -> None:
        """Writes the state under its iteration; atomic, and on disk when this returns. One that is there stays."""
        iteration = int(state.iteration)
        if iteration in self.iterations():
            return
        proof = {"iteration": iteration, "sha256": digest(state)}
        self._manager.save(
            iteration,
            args=ocp.args.Composite(state=ocp.args.StandardSave(_leaves(state)), proof=ocp.args.JsonSave(proof)),
        )
        self._manager.wait_until_finished()

    def iterations(self) -> list[int]:
        """Iterations of which there is a checkpoint, ascending."""
        return sorted(self._manager.all_steps(read=True))

    def restore(self) -> MetaState:
        """The newest whole checkpoint; `notes` names every newer one that is damaged.

        Raises:
            ValueError: there is none.
        """
        failures = []
        for iteration in reversed(self.iterations()):
            try:
                state = self._read(iteration)
            # Whatever a damaged file makes orbax, its storage layer or a JSON parser raise means the same here.
            except Exception as error:
                failures.append(f"checkpoint {iteration} is damaged ({_one_line(error)})")
                continue
            self.notes += [f"{failure}; going back to checkpoint {iteration}" for failure in failures]
            return state
        found = "; ".join(failures) or "it is empty"
        raise ValueError(f"no whole checkpoint in {self.directory}: {found}")

    def _read(self, iteration: int) -> MetaState:
        wanted = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in _leaves(self._template).items()}
        read = self._manager.restore(
            iteration,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted), proof=ocp.args.JsonRestore()),
        )
        template, tree = jax.tree.flatten(self._template)
        leaves = [
            jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(old)) if _is_key(old) else value
            for value, old in zip((read["state"][path] for path in wanted), template, strict=True)
        ]
        state = jax.tree.unflatten(tree, [leaf if _is_key(leaf) else jnp.asarray(leaf) for leaf in leaves])
        if read["proof"] != {"iteration": iteration, "sha256": digest(state)}:
            raise ValueError("its content does not match its digest")
        return state

    def discard_after(self, iteration: int) -> None:
        """Moves checkpoints newer than `iteration` to ``damaged/``, so that the run can write them again."""
        for newer in [step for step in self.iterations() if step > iteration]:
            target = self.directory.parent / "damaged" / str(newer)
            number = 1
            while target.exists():
                number += 1
                target = target.with_name(f"{newer}-{number}")
            target.parent.mkdir(exist_ok=True)
            shutil.move(self.directory / str(newer), target)
            self.notes.append(f"moved the damaged checkpoint {newer} to {target}")
        self._manager.reload()

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
