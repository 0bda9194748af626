"""The notebook of the docs runs from its first cell to its last."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first-steps.ipynb"


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # of the command r2ac
    whole, shorter = 'r2ac.train("memory/tmaze", ', 'r2ac.train("memory/tmaze", total_steps=20_000, '
    text = NOTEBOOK.read_text()
    assert text.count(json.dumps(whole)[1:-1]) == 1
    notebook = nbformat.reads(text.replace(json.dumps(whole)[1:-1], json.dumps(shorter)[1:-1]), as_version=4)
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert (tmp_path / "runs" / "first-steps" / "evaluation.json").is_file()
