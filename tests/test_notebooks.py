"""The notebooks are made from the `.py` files beside them, and run from the first cell to the last."""

from __future__ import annotations

from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
SLOW = {"03_balancing": pytest.mark.slow}  # minutes of trajectories


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script(script: Path) -> None:
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    written = [cell.source for cell in notebook.cells]
    assert written == [cell.source for cell in jupytext.read(script).cells], "run `jupytext --sync` and execute it"


@pytest.mark.parametrize(
    "script", [pytest.param(path, id=path.stem, marks=SLOW.get(path.stem, ())) for path in NOTEBOOKS]
)
def test_a_notebook_runs(script: Path, tmp_path: Path) -> None:
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3, "one plot for each lesson"
