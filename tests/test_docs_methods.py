"""`docs/methods.md` lists every balancer, and says of it what its code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from mtl_lightning import balancing
from mtl_lightning.balancing import Balancer
from mtl_lightning.balancing.tools.seeded_generator import SeededGenerator

PAGE = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
HEADER = ["method", "paper", "consumes", "backwards", "memory", "state", "random", "heads weighted"]
CLASSES = [
    cls
    for cls in (getattr(balancing, name) for name in balancing.__all__)
    if inspect.isclass(cls) and issubclass(cls, Balancer) and not inspect.isabstract(cls)
]
every_class = pytest.mark.parametrize("cls", CLASSES, ids=[cls.__name__ for cls in CLASSES])


def table() -> dict[str, dict[str, str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][: len(HEADER)] == HEADER
    return {row[0].strip("`"): dict(zip(HEADER, row, strict=False)) for row in cells[2:]}


def test_every_balancer_has_a_row_and_every_row_is_a_balancer() -> None:
    assert sorted(table()) == sorted(cls.__name__ for cls in CLASSES)


@every_class
def test_a_row_says_what_the_code_does(cls: Any) -> None:
    row, balancer = table()[cls.__name__], cls(3)
    if not balancer.rows:
        consumes = "losses"
    elif balancer.gramian:
        consumes = "Gramian"
    else:
        consumes = "features" if balancer.level == "features" else "rows"
    assert row["consumes"].startswith(consumes)
    assert ("3 parts" in row["consumes"]) == (balancer.parts == 3)
    draws = any(isinstance(part, SeededGenerator) for part in balancer.modules())
    assert row["random"] == ("yes" if draws else "no")
    assert row["heads weighted"] == ("yes" if not balancer.rows or balancer.weight_heads else "no")
    if not balancer.rows:
        assert row["backwards"].startswith("1" if balancer.affine else "1 / P")
    stateful = any(True for _ in balancer.state_dict())
    if row["state"] in ("none", "draws"):
        learned = {key for key in balancer.state_dict() if "draws" not in key and not key.endswith("_extra_state")}
        assert not learned or cls.__name__ == "FixedWeighting"
    elif row["state"] != "as inside":
        assert stateful


def test_papers_are_linked() -> None:
    for name, row in table().items():
        assert re.search(r"\]\(https://", row["paper"]) or name in (
            "Balancer",
            "FixedWeighting",
            "EMANormalization",
            "IMTL",
            "GradientNormBalancing",
            "CRMOGM",
        )
