"""The notebooks are made from the `.py` files beside them, and run from the first cell to the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
MINUTES = ("03_balancing",)  # of trajectories, which no trainer makes
AFRESH = "%reset -f\n%cd {folder}"  # no name of the notebook before is left
SHORT = """
import os
from functools import wraps
import torch
from lightning.pytorch import Trainer

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of programs that a notebook starts

def shortened(make):
    @wraps(make)
    def make_short(self, *args, max_epochs=None, **options):
        short = {"limit_train_batches": 12, "limit_val_batches": 2, "limit_test_batches": 2}
        make(self, *args, max_epochs=min(2, max_epochs or 2), **{**short, **options})

    return make_short

Trainer.__init__ = shortened(Trainer.__init__)
"""


@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script(script: Path) -> None:
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    written = [cell.source for cell in notebook.cells]
    assert written == [cell.source for cell in jupytext.read(script).cells], "run `jupytext --sync` and execute it"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One for all notebooks: it takes longer to import torch and lightning than to run a short notebook."""
    manager = KernelManager()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("script", [path for path in NOTEBOOKS if path.stem not in MINUTES], ids=lambda path: path.stem)
def test_a_notebook_runs(script: Path, tmp_path: Path, kernel: KernelManager) -> None:
    """With two short epochs a run, which are enough to go through every cell."""
    execute(script, AFRESH.format(folder=tmp_path), SHORT, kernel=kernel)


@pytest.mark.slow
@pytest.mark.parametrize("script", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_stands(script: Path, tmp_path: Path) -> None:
    execute(script, AFRESH.format(folder=tmp_path))


def execute(script: Path, *before: str, kernel: KernelManager | None = None) -> None:
    """Run a notebook, after some cells of our own, and look for its pictures."""
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    notebook.cells[:0] = [new_code_cell(source) for source in before]  # type: ignore[no-untyped-call]  # nbformat's
    NotebookClient(notebook, km=kernel, timeout=600).execute(cleanup_kc=kernel is None)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3, "one plot for each lesson"
