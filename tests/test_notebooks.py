"""The notebooks are made from the `.py` files beside them, run from end to end, and print what is committed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import pytest
from jupyter_client.manager import KernelManager

from tests.notebook_outputs import differences, pictures, printed
from tests.notebook_runs import execute

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
BRIEF = ("05_diagnosing_a_bad_run",)  # some seconds as it stands, and of no use cut short
MINUTES = ("01_three_lessons", "02_your_table", "03_balancing")
"""Long even when trainers are cut short; slow tests run them."""
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
        short = {"limit_train_batches": 6, "limit_val_batches": 2, "limit_test_batches": 2}
        make(self, *args, max_epochs=min(2, max_epochs or 2), **{**options, **short})

    return make_short

Trainer.__init__ = shortened(Trainer.__init__)
"""
A_PLACE_OR_TIME = re.compile(
    r"(?<![\w.])/(?:home|root|tmp|work|usr|Users)/|0x[0-9a-f]{6}|\d (?:ms|s|seconds|minutes)\b"
)


def each(*left_out: str, only: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    chosen = [path for path in NOTEBOOKS if path.stem not in left_out and (not only or path.stem in only)]
    return pytest.mark.parametrize("script", chosen, ids=lambda path: path.stem)


@each()
def test_a_notebook_is_its_script(script: Path) -> None:
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells], "see CONTRIBUTING.md"


@each()
def test_its_outputs_are_of_one_run_and_of_no_machine(script: Path) -> None:
    """Executed from the first cell to the last; nothing that differs from run to run, such as a folder or a time."""
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert sum(map(pictures, code)) >= 3, "one plot for each lesson"
    for number, cell in enumerate(notebook.cells):
        assert not A_PLACE_OR_TIME.search(printed(cell)), (number, printed(cell))


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One for all notebooks: it takes longer to import torch and lightning than to run a short notebook."""
    manager = KernelManager()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@each(only=BRIEF)
def test_a_brief_notebook_prints_what_is_committed(script: Path, tmp_path: Path, kernel: KernelManager) -> None:
    """Before the kernel's trainers are shortened."""
    check(script, execute(script, tmp_path, kernel=kernel))


@each(*MINUTES, *BRIEF)
def test_a_notebook_runs(script: Path, tmp_path: Path, kernel: KernelManager) -> None:
    """With two short epochs a run, which are enough to go through every cell."""
    made = execute(script, tmp_path, SHORT, kernel=kernel)
    assert [pictures(cell) for cell in made.cells] == [pictures(cell) for cell in committed(script).cells]


@pytest.mark.slow
@each()
def test_a_notebook_prints_what_is_committed(script: Path, tmp_path: Path) -> None:
    check(script, execute(script, tmp_path))


def committed(script: Path) -> Any:
    return jupytext.read(script.with_suffix(".ipynb"))


def check(script: Path, made: Any) -> None:
    found = differences(committed(script), made)
    assert not found, "\n\n".join([f"{script.stem} prints something else; if that is right, execute it anew:", *found])


# --------------------------------------------------------------------------------------------------- the comparison
def notebook(*texts: str) -> Any:
    """A notebook of a cell for each text that it prints."""
    outputs = [[{"output_type": "stream", "name": "stdout", "text": text}] for text in texts]
    return type("Notebook", (), {"cells": [{"outputs": one} for one in outputs]})


@pytest.mark.parametrize(
    "text",
    [
        "loss 1.00, accuracy  0.91\nof 1,000 rows",  # within 5 %, or 0.03
        "loss 1.04,\naccuracy 0.92 of 1,010 rows",
        "loss 1.00, accuracy 0.885 of 960 rows",
    ],
)
def test_numbers_that_are_near_and_lines_that_break_elsewhere_are_no_difference(text: str) -> None:
    assert differences(notebook("loss 1.00, accuracy 0.91 of 1,000 rows"), notebook(text)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss 1.2, accuracy 0.91 of 3.0e+05", "cell 1: 1.0 is 1.2"),
        ("loss 1.0, accuracy 0.85 of 3.0e+05", "cell 1: 0.91 is 0.85"),
        ("loss -1.0, accuracy 0.91 of 3.0e+04", "cell 1: 1.0 is -1.0; 3.0e+05 is 3.0e+04"),
        ("loss nan, accuracy 0.91 of 3.0e+05", "cell 1: other words"),
        ("loss 1.0, accuracy 0.91 of 3.0e+05, warning", "cell 1: other words"),
        ("", "cell 1: other words"),
    ],
)
def test_other_numbers_and_words_are_told_with_the_cell_and_both_texts(text: str, said: str) -> None:
    before = "loss 1.0, accuracy 0.91 of 3.0e+05"
    (found,) = differences(notebook("same", before), notebook("same", text))
    assert found.splitlines()[0] == said
    assert before in found
    assert text in found


def test_cells_and_pictures_that_are_missing_are_told() -> None:
    shown = notebook("text")
    shown.cells[0]["outputs"].append({"data": {"image/png": "", "text/plain": "<Figure>"}})
    assert differences(shown, shown) == []
    assert differences(shown, notebook("text"))[0].startswith("cell 0: 1 pictures are 0")
    assert differences(notebook("text"), notebook("text", "more"))[0].startswith("cell 1: other words")
