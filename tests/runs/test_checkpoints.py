import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.runs.checkpoints import Checkpoints
from metarl_jax.runs.config import AlgorithmConfig, TrainConfig
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
    checkpoints = Checkpoints(tmp_path, CONFIG, saved[0], create=True)
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
    jax.jit(lambda state: state, donate_argnums=0)(restored)  # the loop donates it


def test_only_the_newest_are_kept(tmp_path):
    saved = states(4)
    checkpoints = Checkpoints(tmp_path, CONFIG, saved[0], keep=2, create=True)
    for state in saved:
        checkpoints.save(state)
    assert checkpoints.iterations() == [3, 4]


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
    checkpoints = Checkpoints(path, CONFIG, saved[0])
    assert_identical(checkpoints.restore(), saved[1])
    assert len(checkpoints.notes) == 1
    assert checkpoints.notes[0].startswith("checkpoint 3 is damaged (")
    assert checkpoints.notes[0].endswith("going back to checkpoint 2")
    # The run can then write iteration 3 again, and nothing of the old one is lost.
    checkpoints.discard_after(2)
    assert checkpoints.iterations() == [1, 2]
    assert (path / "damaged" / "3").is_dir()
    checkpoints.save(saved[2])
    assert_identical(checkpoints.restore(), saved[2])


def test_wrong_numbers_in_a_readable_checkpoint_are_noticed(folder):
    path, saved = folder
    proof = next(file for file in files(path / "checkpoints" / "3" / "proof") if "sha256" in file.read_text())
    proof.write_text(proof.read_text().replace('"sha256": "', '"sha256": "0'))
    checkpoints = Checkpoints(path, CONFIG, saved[0])
    assert_identical(checkpoints.restore(), saved[1])
    assert "does not match its digest" in checkpoints.notes[0]


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
    with pytest.raises(ValueError, match=r"another configuration: seed was 0, now 1; clip was None, now 0\.5"):
        Checkpoints(path, TrainConfig(seed=1, algorithm_options=AlgorithmConfig(clip=0.5)), saved[0])


def test_another_layout_is_refused_by_leaf(folder):
    path, saved = folder
    wider = saved[0].replace(params=saved[0].params | {"w": jnp.zeros(4)})
    with pytest.raises(ValueError, match=r"params\['w'\] was float32\[3\], now float32\[4\]"):
        Checkpoints(path, CONFIG, wider)
    half = saved[0].replace(params=saved[0].params | {"w": jnp.zeros(3, jnp.float16)})
    with pytest.raises(ValueError, match=r"was float32\[3\], now float16\[3\]"):
        Checkpoints(path, CONFIG, half)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta | {"schema": 99}, "schema is 99"),
        (lambda meta: {"schema": 1}, "meta.json is damaged"),
        (lambda meta: None, "no meta.json"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder, change, message):
    path, saved = folder
    meta = path / "checkpoints" / "meta.json"
    changed = change(json.loads(meta.read_text()))
    meta.unlink() if changed is None else meta.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message):
        Checkpoints(path, CONFIG, saved[0])


def test_other_versions_are_a_note(folder):
    path, saved = folder
    meta = path / "checkpoints" / "meta.json"
    content = json.loads(meta.read_text())
    content["versions"]["jax"] = "0.0.1"
    meta.write_text(json.dumps(content))
    assert "written with jax 0.0.1" in Checkpoints(path, CONFIG, saved[0]).notes[0]
