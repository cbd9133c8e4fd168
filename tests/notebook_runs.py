"""Runs of notebooks: `python -m tests.notebook_runs notebooks/01*.py` executes scripts and writes their notebooks."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

AFRESH = "%reset -f\n%cd {folder}"
"""No name of the notebook before is left, and files are written into a folder."""


def execute(script: Path, folder: Path, *before: str, kernel: KernelManager | None = None) -> Any:
    """Run a notebook in a folder, after some cells of one's own, and return it without these."""
    notebook = jupytext.read(script)
    cells = [AFRESH.format(folder=folder), *before]
    notebook.cells[:0] = [new_code_cell(source) for source in cells]  # type: ignore[no-untyped-call]  # nbformat's
    NotebookClient(notebook, km=kernel, timeout=600).execute(cleanup_kc=kernel is None)
    del notebook.cells[: len(cells)]
    return notebook


def write(script: Path) -> None:
    """Execute a script in an empty folder, and write its notebook: cells are numbered, so that runs can be compared."""
    with TemporaryDirectory() as folder:
        notebook = execute(script, Path(folder))
    runs = 0
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            runs += 1
            cell.execution_count = runs
        for output in cell.get("outputs", []):
            if "execution_count" in output:
                output.execution_count = runs
    notebook.metadata.pop("language_info", None)  # it holds the version of the Python that was there
    jupytext.write(notebook, script.with_suffix(".ipynb"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write(Path(name))
