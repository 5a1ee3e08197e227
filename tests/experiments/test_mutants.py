"""The faults of benchmarks/mutants.py fit the library as it is, and name files of tests that may notice them."""

from pathlib import Path

import pytest

from benchmarks.mutants import ROOT, Fault, faults

FAULTS = faults()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_its_place_and_tests_that_may_notice_it(fault, tmp_path):
    path = tmp_path / "metarl_jax" / fault.file
    path.parent.mkdir(parents=True)
    path.write_text((ROOT / "metarl_jax" / fault.file).read_text())
    before = fault.put_into(tmp_path)
    assert path.read_text() == before.replace(fault.old, fault.new) != before
    compile(path.read_text(), fault.file, "exec")
    assert fault.tests
    assert all((ROOT / test.partition("::")[0]).is_file() for test in fault.tests)


def test_names_are_distinct_and_a_fault_without_a_place_is_refused(tmp_path):
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 80
    (tmp_path / "metarl_jax").mkdir()
    (tmp_path / "metarl_jax" / "a.py").write_text("x = 1\nx = 1\n")
    with pytest.raises(ValueError, match="twice: 'x = 1' is in a.py 2 times"):
        Fault("twice", "a.py", "x = 1", "x = 2", ("tests",)).put_into(Path(tmp_path))
