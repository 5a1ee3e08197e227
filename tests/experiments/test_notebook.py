"""A notebook runs from top to bottom, and is the script that it is reviewed as."""

from pathlib import Path

import jupytext
import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "notebooks"


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
PRINTED = {
    "adapt": ("return after 3 inner steps", "action ["),
    "estimators": ("sampled update", "e-maml"),
    "memory": ("rl2: ", "of 40 pulls pay"),
    "own_environment": ("faults of the boat: ()", "every episode starts alike"),
    "quickstart": ("iteration   1: return", "goal"),
    "real_environment": ("largest difference in", "→ 100 steps"),
    "read_a_run": ("metrics.csv", "random_init"),
}
QUICK = {"adapt", "quickstart"}  # in seconds; the others train something
RUNS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_and_script_are_the_same(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert cells(notebook) == cells(jupytext.read(FOLDER / f"{name}.py"))


@pytest.mark.parametrize("name", NAMES)
def test_notebook_was_committed_with_its_outputs(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert all(output.output_type != "error" for output in outputs)


@pytest.mark.thorough
@pytest.mark.parametrize("name", RUNS)
def test_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTART_ITERATIONS", "2")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream")
    assert all(words in printed for words in PRINTED[name])
    assert "stderr" not in {o.get("name") for c in notebook.cells for o in c.get("outputs", [])}, "a warning was shown"
