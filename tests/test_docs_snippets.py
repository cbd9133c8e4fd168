"""The Python of each page runs, block after block, in one namespace and a folder of its own.

What a reader has and a test has not, such as a file or a module, a page makes in comments ``<!-- before: ... -->``,
which the site does not show. Blocks marked ``python theirs`` are of other libraries, and only parsed. Trainers are
shortened.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from lightning.pytorch import Trainer

from tests.test_docs import DOCS, PAGES

CODE = re.compile(r"^```python(?P<theirs> theirs)?\n(?P<shown>.*?)^```|^<!-- before:\n(?P<hidden>.*?)^-->", re.S | re.M)
WITH_CODE = [page for page in PAGES if CODE.search(page.read_text())]
FEW = {"limit_train_batches": 2, "limit_val_batches": 2, "limit_test_batches": 2}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def shortened(make: Callable[..., None]) -> Callable[..., None]:
    @wraps(make)
    def make_short(self: Trainer, *args: Any, max_epochs: int | None = None, **options: Any) -> None:
        make(self, *args, max_epochs=min(1, max_epochs or 1), **{**FEW, **QUIET, "logger": False, **options})

    return make_short


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(DOCS).with_suffix("")))
def test_a_pages_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Trainer, "__init__", shortened(Trainer.__init__))
    module = ModuleType("page")  # by which checkpoints and datamodules find the classes that a page defines
    monkeypatch.setitem(sys.modules, "page", module)
    text = page.read_text()
    for block in CODE.finditer(text):
        code = block["hidden"] or block["shown"]
        line = text[: block.start()].count("\n") + 1
        tree = ast.parse(code, filename=str(page))
        ast.increment_lineno(tree, line)
        if not block["theirs"]:
            exec(compile(tree, str(page), "exec"), module.__dict__)
