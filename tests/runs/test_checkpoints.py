import dataclasses
import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.runs.checkpoint import provenance
from metarl_jax.runs.checkpoint.checkpoints import Checkpoints, _best
from metarl_jax.runs.checkpoint.leaves import proof
from metarl_jax.runs.config import AlgorithmConfig, TrainConfig
from metarl_jax.runs.config.file import to_json
from metarl_jax.training import train
from metarl_jax.types import MetaState
from tests.runs.stub import stub_algorithm

CONFIG = TrainConfig()


def states(count):
    """Trained states, so that the optimiser's moments are not all zero."""
    found = [jax.tree.map(jnp.array, c.state) for c in train(stub_algorithm(), jax.random.key(0), count, chunk=1)]
    return [MetaState(state.params | {"key": jax.random.key(7)}, state.opt_state, state.iteration) for state in found]


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of iterations 1, 2, 3."""
    saved = states(3)
    checkpoints = Checkpoints(tmp_path, CONFIG, saved[0], write=True)
    for state in saved:
        checkpoints.save(state)
    checkpoints.close()
    return tmp_path, saved


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def files(step_folder):
    return sorted(path for path in step_folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_round_trip_bit_for_bit_with_optimiser_and_keys(folder):
    path, saved = folder
    checkpoints = Checkpoints(path, CONFIG, saved[0])
    restored = checkpoints.restore()
    assert_identical(restored, saved[-1])
    assert checkpoints.notes == []
    jax.jit(lambda state: state, donate_argnums=0)(restored)  # the buffers are its own


def test_only_the_newest_are_kept(tmp_path):
    saved = states(4)
    checkpoints = Checkpoints(tmp_path, dataclasses.replace(CONFIG, keep=2), saved[0], write=True)
    for state in saved:
        checkpoints.save(state)
    checkpoints.close()
    assert Checkpoints(tmp_path, CONFIG, saved[0]).iterations() == [3, 4]


def test_the_best_is_kept_too_and_known_after_a_restart(tmp_path):
    saved, scores = states(5), [1.0, 7.0, 3.0, 2.0, 4.0]
    config = dataclasses.replace(CONFIG, keep=1)
    for part in (slice(0, 3), slice(3, 5)):
        checkpoints = Checkpoints(tmp_path, config, saved[0], write=True)
        for state, score in zip(saved[part], scores[part], strict=True):
            checkpoints.save(state, score)
        checkpoints.close()
    reader = Checkpoints(tmp_path, config, saved[0])
    assert reader.iterations() == [2, 5]
    assert reader.best() == 2
    assert_identical(reader.restore(2), saved[1])
    assert_identical(reader.restore(), saved[4])
    with pytest.raises(ValueError, match=r"no checkpoint of iteration 4 .* there are \[2, 5\]"):
        reader.restore(4)


def test_what_is_being_written_does_not_change_with_the_state(tmp_path):
    """The caller may do with the state what it likes once `save` has returned."""
    state = states(1)[0]
    mutable = jax.tree.map(lambda leaf: leaf if leaf.dtype == state.params["key"].dtype else np.array(leaf), state)
    checkpoints = Checkpoints(tmp_path, CONFIG, state, write=True)
    checkpoints.save(mutable)
    mutable.params["w"][:] = 99.0
    checkpoints.close()
    assert_identical(Checkpoints(tmp_path, CONFIG, state).restore(), state)


def test_a_reader_changes_nothing(folder):
    path, saved = folder
    (path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()  # what a writer leaves that was killed
    before = {file: file.read_bytes() if file.is_file() else None for file in path.rglob("*")}
    reader = Checkpoints(path, CONFIG, saved[0])
    reader.restore()
    reader.close()
    assert {file: file.read_bytes() if file.is_file() else None for file in path.rglob("*")} == before


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.unlink()])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(folder, damage):
    path, saved = folder
    for file in files(path / "checkpoints" / "3" / "state"):
        damage(file)
    checkpoints = Checkpoints(path, CONFIG, saved[0], write=True)
    assert_identical(checkpoints.restore(), saved[1])
    assert len(checkpoints.notes) == 1
    assert checkpoints.notes[0].startswith("checkpoint 3 is damaged (")
    assert checkpoints.notes[0].endswith("going back to checkpoint 2")
    # The run can then write iteration 3 again, and nothing of the old one is lost.
    checkpoints.discard_after(2)
    assert checkpoints.iterations() == [1, 2]
    assert (path / "damaged" / "3").is_dir()
    checkpoints.save(saved[2])
    checkpoints.wait()
    assert_identical(checkpoints.restore(), saved[2])


def edit(step_folder, change):
    """Rewrites the record of a checkpoint."""
    file = next(file for file in files(step_folder / "record") if "sha256" in file.read_text())
    record = json.loads(file.read_text())
    record.pop("proof")
    record = change(record)
    file.write_text(json.dumps(record | {"proof": proof(record)}))


def test_wrong_numbers_in_a_readable_checkpoint_are_noticed(folder):
    path, saved = folder
    edit(path / "checkpoints" / "3", lambda record: record | {"sha256": "0" + record["sha256"]})
    checkpoints = Checkpoints(path, CONFIG, saved[0])
    assert_identical(checkpoints.restore(), saved[1])
    assert "does not match its digest" in checkpoints.notes[0]


@pytest.mark.parametrize("name", ["score", "iteration", "schema", "layout", "configuration"])
def test_any_change_of_a_record_is_damage(folder, name):
    """Else a flipped bit could make another checkpoint the best, or refuse a whole run as another's."""
    path, saved = folder
    file = next(file for file in files(path / "checkpoints" / "3" / "record") if "sha256" in file.read_text())
    record = json.loads(file.read_text())
    record[name] = {} if isinstance(record[name], dict) else 99
    file.write_text(json.dumps(record))
    checkpoints = Checkpoints(path, CONFIG, saved[0])
    assert_identical(checkpoints.restore(), saved[1])
    assert "its record does not match its digest" in checkpoints.notes[0]


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.write_bytes(b"")])
def test_no_damaged_file_keeps_a_folder_from_being_opened(folder, damage):
    path, saved = folder
    for file in files(path / "checkpoints" / "3"):
        damage(file)
    for write in (False, True):
        checkpoints = Checkpoints(path, CONFIG, saved[0], write=write)
        assert_identical(checkpoints.restore(), saved[1])
        checkpoints.close()


def test_no_whole_checkpoint_is_one_clear_error(folder):
    path, saved = folder
    for step in "123":
        shutil.rmtree(path / "checkpoints" / step / "state")
    with pytest.raises(
        ValueError, match=r"no whole checkpoint in .*checkpoint 3 is damaged.*checkpoint 1 is damaged"
    ) as e:
        Checkpoints(path, CONFIG, saved[0]).restore()
    assert "\n" not in str(e.value)


def test_another_configuration_is_refused_by_field(folder):
    path, saved = folder
    other = TrainConfig(seed=1, algorithm_options=AlgorithmConfig(clip=0.5), iterations=7)
    with pytest.raises(ValueError, match=r"another configuration: seed was 0, now 1; clip was None, now 0\.5$"):
        Checkpoints(path, other, saved[0]).restore()
    # What is safe to change is the business of `--override`: an older checkpoint may have been written before it.
    Checkpoints(path, dataclasses.replace(CONFIG, iterations=7), saved[0]).restore()


def test_another_layout_is_refused_by_leaf(folder):
    path, saved = folder
    wider = saved[0].replace(params=saved[0].params | {"w": jnp.zeros(4)})
    with pytest.raises(ValueError, match=r"params\['w'\] was float32\[3\], now float32\[4\]"):
        Checkpoints(path, CONFIG, wider).restore()
    half = saved[0].replace(params=saved[0].params | {"w": jnp.zeros(3, jnp.float16)})
    with pytest.raises(ValueError, match=r"was float32\[3\], now float16\[3\]"):
        Checkpoints(path, CONFIG, half).restore()


def test_another_schema_is_refused(folder):
    path, saved = folder
    for step in "123":
        edit(path / "checkpoints" / step, lambda record: record | {"schema": 99})
    with pytest.raises(ValueError, match="are of schema 99; this version reads schema 2"):
        Checkpoints(path, CONFIG, saved[0]).restore()


def test_checkpoints_of_the_first_schema_are_named_as_such(folder):
    path, saved = folder
    (path / "checkpoints" / "meta.json").write_text("{}")
    with pytest.raises(ValueError, match="are of schema 1; this version reads schema 2; go on with the version"):
        Checkpoints(path, CONFIG, saved[0])


@pytest.mark.parametrize("error", [MemoryError("no room"), OSError(errno.ESTALE, "Stale file handle")])
def test_an_error_of_the_machine_is_no_damage(folder, monkeypatch, error):
    path, saved = folder
    checkpoints = Checkpoints(path, CONFIG, saved[0])

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    with pytest.raises(type(error)):
        checkpoints.restore()


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoints"):
        Checkpoints(tmp_path, CONFIG, stub_algorithm().init(jax.random.key(0)))
    assert list(tmp_path.iterdir()) == []


def test_other_versions_and_hardware_are_notes(folder):
    path, saved = folder
    edit(
        path / "checkpoints" / "3",
        lambda record: (
            record
            | {"versions": record["versions"] | {"jax": "0.0.1"}, "hardware": record["hardware"] | {"devices": "64"}}
        ),
    )
    checkpoints = Checkpoints(path, CONFIG, saved[0])
    checkpoints.restore()
    assert "written with jax 0.0.1" in checkpoints.notes[0]
    assert "written with devices 64, this is 1" in checkpoints.notes[1]


@pytest.mark.parametrize(("now", "told"), [("a" * 40, 0), ("b" * 40, 1), ("a" * 40 + "-dirty", 1), (None, 0)])
def test_another_source_is_a_note(monkeypatch, now, told):
    """The version stays for many commits, so it does not tell."""
    record = dict(provenance.provenance()) | {"revision": "a" * 40}
    monkeypatch.setattr(provenance, "provenance", lambda: record | {"revision": now})
    notes = provenance.changes(record)
    assert len(notes) == told
    assert provenance.changes(record, goes_on=False) == [], "an evaluation goes on with nothing"
    assert all("written by the source aaaaaaaaaa, this is " in note for note in notes)


def test_a_record_says_where_the_numbers_come_from(folder):
    path, _ = folder
    records = []
    edit(path / "checkpoints" / "3", lambda record: records.append(record) or record)
    assert records[0]["configuration"] == json.loads(to_json(CONFIG))
    assert {"python", "jax", "brax"} <= records[0]["versions"].keys()
    assert records[0]["revision"] is None or len(records[0]["revision"].removesuffix("-dirty")) == 40


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ValueError("RESOURCE_EXHAUSTED: Error writing local file " + 200 * "x"), "No space left on device"),
        (RuntimeError("something\nelse"), "no checkpoint could be written to .*: something else"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
    ],
)
def test_what_cannot_be_written_is_an_os_error_in_plain_words(tmp_path, monkeypatch, raised, told):
    def fail(*_, **__):
        raise raised

    state = states(1)[0]
    checkpoints = Checkpoints(tmp_path, CONFIG, state, write=True)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(OSError, match=told):
            checkpoints.save(state)
    checkpoints.close()


def test_a_score_that_is_no_number_is_never_the_best():
    assert _best({1: float("nan"), 2: -3.0, 3: float("nan"), 4: -5.0}, [1, 2, 3, 4]) == 2
    assert _best({1: float("nan")}, [1]) is None
