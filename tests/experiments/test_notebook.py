"""The quickstart notebook runs from top to bottom, and is the script that it is reviewed as."""

from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "notebooks"


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_notebook_and_script_are_the_same():
    notebook = nbformat.read(FOLDER / "quickstart.ipynb", as_version=4)
    assert cells(notebook) == cells(jupytext.read(FOLDER / "quickstart.py"))


def test_notebook_was_committed_with_its_outputs():
    notebook = nbformat.read(FOLDER / "quickstart.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert all(output.output_type != "error" for output in outputs)


def test_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTART_ITERATIONS", "2")
    notebook = nbformat.read(FOLDER / "quickstart.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream")
    assert "iteration   1: return" in printed
    assert "goal" in printed
    assert "stderr" not in {o.get("name") for c in notebook.cells for o in c.get("outputs", [])}, "a warning was shown"
