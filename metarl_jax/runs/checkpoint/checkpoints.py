"""Checkpoints of a run, written by orbax; each records its run's configuration and a digest of its content."""

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils.epath.gpath import PosixGPath

from metarl_jax.runs.checkpoint.leaves import by_path, digest, layout, proof, verified
from metarl_jax.runs.checkpoint.provenance import changes, provenance
from metarl_jax.runs.config import TrainConfig
from metarl_jax.runs.config.file import differences, from_json, to_json
from metarl_jax.runs.storage import files
from metarl_jax.runs.storage.folder import check_path
from metarl_jax.types import MetaState, is_key

SCHEMA = 2
"""Version of the file format; increased by incompatible changes."""

_OF_ANOTHER_SCHEMA = (
    "the checkpoints in {} are of schema {}; "
    f"this version reads schema {SCHEMA}; go on with the version that wrote them, or start another run by another "
    "--folder"
)


class _Literal(PosixGPath):
    """A path whose name is taken literally in `glob`; etils would interpret it as a pattern."""

    def glob(self, pattern: str) -> Iterator["_Literal"]:
        return map(type(self), Path(self).glob(pattern))


class _NewestAndBest:
    """Orbax preservation policy: keeps the newest checkpoints and the best one."""

    def __init__(self, newest: int, scores: dict[int, float]):
        self._newest, self._scores = newest, scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each of `checkpoints`, whose `step` is the iteration."""
        steps = sorted(info.step for info in checkpoints)
        preserved = {*steps[-self._newest :], _best(self._scores, steps)}
        return [info.step in preserved for info in checkpoints]


def _best(scores: dict[int, float], steps: Sequence[int]) -> int | None:
    """The newest step with the highest score; None if no step has a score."""
    scored = (step for step in steps if np.isfinite(scores.get(step, np.nan)))
    return max(scored, key=lambda step: (scores[step], step), default=None)


class Checkpoints:
    """The checkpoints of one run folder, under ``checkpoints/ITERATION``.

    The newest `keep` checkpoints are kept, and the one with the best score. Each holds the state and a record of its
    digest, score, configuration, package versions and state layout.
    """

    def __init__(self, folder: Path, config: TrainConfig, state: MetaState, *, write: bool = False):
        """Opens the checkpoints of a run folder, or creates their folder.

        Args:
            folder: the run folder.
            config: configuration of the run; `config.keep` is the number of checkpoints to keep.
            state: an example of the state; only structure, types and shapes are used.
            write: whether to open for writing; a reader modifies nothing.

        Raises:
            ValueError: there are no checkpoints to read, or the path cannot hold checkpoints.
        """
        check_path(folder)
        self.directory = Path(os.path.realpath(folder)) / "checkpoints"
        self.notes: list[str] = []
        """messages for the user: damaged checkpoints, other package versions"""
        self._template, self._config = state, config
        self._scores: dict[int, float] = {}
        if files.there(self.directory / "meta.json"):
            raise ValueError(_OF_ANOTHER_SCHEMA.format(self.directory, 1))
        if write:
            self.directory.mkdir(exist_ok=True)
        elif not files.there(self.directory, folder=True):
            raise ValueError(f"{folder} holds no checkpoints; experiments/train.py writes them")
        # Silence orbax's developer-oriented log; messages for the user are in `notes`.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        # One process has the full state and writes it, so orbax must not wait for the others.
        single_process = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix=f"process{jax.process_index()}",
        )
        options = ocp.CheckpointManagerOptions(
            create=False,
            read_only=not write,
            cleanup_tmp_directories=write,  # leftovers of a killed process
            preservation_policy=_NewestAndBest(config.keep, self._scores),
            enable_async_checkpointing=write,
            multiprocessing_options=single_process,
        )
        self._manager = ocp.CheckpointManager(_Literal(self.directory), options=options, item_names=("state", "record"))
        self._goes_on = write
        if write:
            self._read_scores()

    def save(self, state: MetaState, score: float | None = None) -> None:
        """Starts writing the state in the background; does nothing if its iteration already has a checkpoint.

        Errors of the background write are raised by the next call, or by `close`. If the process dies mid-write, the
        partial checkpoint is ignored on restore.

        Args:
            state: the state; leaves are copied before this returns.
            score: the higher the better; a checkpoint with None is never the best.

        Raises:
            OSError: this checkpoint, or the previous one, could not be written.
        """
        leaves = {path: np.array(leaf) for path, leaf in by_path(state).items()}
        iteration = int(np.max(np.asarray(state.iteration)))
        if iteration in self.iterations():
            return
        record = provenance() | {
            "schema": SCHEMA,
            "iteration": iteration,
            "sha256": digest(leaves),
            "score": None if score is None else float(score),
            "configuration": json.loads(to_json(self._config)),
            "layout": layout(state),
        }
        record["proof"] = proof(record)
        if score is not None:
            self._scores[iteration] = float(score)
        args = ocp.args.Composite(state=ocp.args.StandardSave(leaves), record=ocp.args.JsonSave(record))
        with _as_os_error(self.directory):
            self._manager.save(iteration, args=args)

    def iterations(self) -> list[int]:
        """Iterations that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The iteration with the best score; None if no checkpoint has a score."""
        self._read_scores()
        return _best(self._scores, self.iterations())

    def _read_scores(self) -> None:
        for iteration in self.iterations():
            # A damaged checkpoint is not a candidate; `restore` reports it when it is requested.
            with contextlib.suppress(Exception):
                score = self._read_record(iteration).get("score")
                if score is not None:
                    self._scores[iteration] = score

    def restore(self, iteration: int | None = None) -> MetaState:
        """Reads the newest intact checkpoint; adds newer, damaged ones to `notes`.

        Args:
            iteration: the checkpoint to read; None: the newest.

        Raises:
            ValueError: there is none, or it has another schema, configuration or layout.
        """
        available = self.iterations()
        if iteration is not None and iteration not in available:
            raise ValueError(
                f"there is no checkpoint of iteration {iteration} in {self.directory}; there are {available or 'none'}"
            )
        failures = []
        for candidate in [iteration] if iteration is not None else reversed(available):
            try:
                record = self._read_record(candidate)
                fits = record["schema"] == SCHEMA
                state = self._read(candidate, record) if fits and record["layout"] == layout(self._template) else None
            except Exception as error:  # any error that orbax, tensorstore or JSON raise for damaged bytes
                if _is_the_machine(error):
                    raise
                failures.append(f"checkpoint {candidate} is damaged ({_one_line(error)})")
                continue
            self._check(record)
            if state is not None:
                self.notes += [f"{failure}; going back to checkpoint {candidate}" for failure in failures]
                return state
        reasons = "; ".join(failures) or "there is none at all"
        raise ValueError(
            f"no whole checkpoint in {self.directory}: {reasons}; restore a copy, or start another run by another "
            "--folder"
        )

    def _read_record(self, iteration: int) -> dict[str, Any]:
        content = self._manager.restore(iteration, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]
        return verified(content, SCHEMA)

    def _check(self, record: dict[str, Any]) -> None:
        """Raises ValueError if a record belongs to another run; notes other versions and hardware."""
        where = f"the checkpoints in {self.directory}"
        if record["schema"] != SCHEMA:
            raise ValueError(_OF_ANOTHER_SCHEMA.format(self.directory, record["schema"]))
        stored = from_json(json.dumps(record["configuration"]), where)
        fixed, _ = differences(stored, self._config)
        if fixed:
            raise ValueError(f"{where} are of another configuration: {'; '.join(fixed)}")
        template = layout(self._template)
        for leaf in sorted(record["layout"].keys() | template.keys()):
            old, new = record["layout"].get(leaf, "absent"), template.get(leaf, "absent")
            if old != new:
                raise ValueError(f"{where} hold another state: {leaf} was {old}, now {new}")
        self.notes += changes(record, goes_on=self._goes_on)

    def prove(self, iteration: int) -> None:
        """Verifies that a checkpoint that was just written can be read back.

        Raises:
            ValueError: it cannot be read.
        """
        try:
            self._values(iteration, self._read_record(iteration))
        except Exception as error:  # any error that orbax, tensorstore or JSON raise
            if _is_the_machine(error):
                raise
            raise ValueError(
                f"the checkpoint that was just written to {self.directory} cannot be read back ({_one_line(error)}), "
                "and no later one could be; choose another folder by --folder, on another disk if need be"
            ) from error

    def _values(self, iteration: int, record: dict[str, Any]) -> dict[str, np.ndarray]:
        """The leaves of a checkpoint by path, verified against its digest."""
        templates = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in by_path(self._template).items()}
        args = ocp.args.Composite(state=ocp.args.StandardRestore(templates))
        leaves = {path: np.asarray(leaf) for path, leaf in self._manager.restore(iteration, args=args)["state"].items()}
        if (record["iteration"], record["sha256"]) != (iteration, digest({path: leaves[path] for path in templates})):
            raise ValueError("its content does not match its digest")
        return {path: leaves[path] for path in templates}

    def _read(self, iteration: int, record: dict[str, Any]) -> MetaState:
        read = self._values(iteration, record)
        template, tree = jax.tree.flatten(self._template)
        leaves = [
            jax.random.wrap_key_data(jnp.asarray(read[path]), impl=jax.random.key_impl(old))
            if is_key(old)
            else jnp.asarray(read[path])
            for path, old in zip(read, template, strict=True)
        ]
        return jax.tree.unflatten(tree, leaves)

    def discard_after(self, iteration: int) -> None:
        """Moves checkpoints after `iteration` to ``damaged/``, so that the run can write them again."""
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

    def wait(self) -> None:
        """Blocks until all saved checkpoints are on disk.

        Raises:
            OSError: something could not be written.
        """
        with _as_os_error(self.directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for pending writes and ends orbax's threads.

        Raises:
            OSError: something could not be written.
        """
        try:
            self.wait()
        finally:
            with _as_os_error(self.directory):
                self._manager.close()


@contextlib.contextmanager
def _as_os_error(directory: Path) -> Iterator[None]:
    """Converts errors of orbax and tensorstore to OSErrors, since they report a full disk in several ways."""
    try:
        yield
    except OSError:
        raise
    except (ValueError, RuntimeError) as error:
        if "RESOURCE_EXHAUSTED" in str(error) or os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory)) from error
        raise OSError(f"no checkpoint could be written to {directory}: {_one_line(error)}") from error


def _is_the_machine(error: Exception) -> bool:
    """Whether an error is not due to a damaged file, but to memory, open files or a network disk."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
