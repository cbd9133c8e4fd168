"""The notebooks are made from the `.py` files beside them, and run from the first cell to the last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
MINUTES = ("03_balancing",)  # of trajectories, which no trainer makes
SHORT = """
import os
from functools import wraps
import torch
from lightning.pytorch import Trainer

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of programs that a notebook starts
make = Trainer.__init__

@wraps(make)
def make_short(self, *args, max_epochs=None, **options):
    short = {"limit_train_batches": 12, "limit_val_batches": 2, "limit_test_batches": 2}
    make(self, *args, max_epochs=min(2, max_epochs or 2), **{**short, **options})

Trainer.__init__ = make_short
"""


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script(script: Path) -> None:
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    written = [cell.source for cell in notebook.cells]
    assert written == [cell.source for cell in jupytext.read(script).cells], "run `jupytext --sync` and execute it"


@pytest.mark.parametrize("script", [path for path in NOTEBOOKS if path.stem not in MINUTES], ids=lambda path: path.stem)
def test_a_notebook_runs(script: Path, tmp_path: Path) -> None:
    """With two short epochs a run, which are enough to go through every cell."""
    execute(script, tmp_path, [new_code_cell(SHORT)])  # type: ignore[no-untyped-call]  # nbformat has no types


@pytest.mark.slow
@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_stands(script: Path, tmp_path: Path) -> None:
    execute(script, tmp_path)


def execute(script: Path, folder: Path, before: Sequence[Any] = ()) -> None:
    """Run a notebook, after some cells of our own, and look for its pictures."""
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    notebook.cells[:0] = before
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3, "one plot for each lesson"
