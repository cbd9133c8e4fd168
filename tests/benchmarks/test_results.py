"""The committed results: reports and tables follow from the raw rows, and what made them can be run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import get_loader

from benchmarks.results_table import FOLDER, analysis_of, lines
from mtl_lightning.cli import MultiTaskCLI
from mtl_lightning.cli.entries import checked, read_base, read_entries
from mtl_lightning.study.report import report

SETS = sorted(path.parent for path in FOLDER.glob("*/results.parquet"))


@pytest.mark.parametrize("folder", SETS, ids=lambda folder: str(folder.name))
def test_reports_and_tables_are_those_of_their_rows(folder: Path) -> None:
    analysis = analysis_of(folder)
    figures = {"delta": "delta_m.png", "slopes": "slopes.png", "tradeoffs": "tradeoffs.png"}
    assert (folder / "report.md").read_text() == report(analysis, figures)
    assert all((folder / name).is_file() for name in figures.values())
    assert "\n".join(lines(analysis)) in (FOLDER / "README.md").read_text()
    declared = read("methods.yaml")
    assert analysis.entries == list(declared["entries"])
    assert all(sorted(found) == list(range(declared["seeds"])) for found in analysis.delta.values())
    assert {told["trials"] for told in analysis.settings["tuned"].values()} == {declared["tune"]["trials"]}


@pytest.mark.slow
def test_what_made_them_can_be_built() -> None:
    """Of the set that needs no files."""
    config, _ = read_base(read("multidigit.yaml")["base"])
    declared = read_entries(config, read("methods.yaml")["entries"], [0])
    assert checked(declared, MultiTaskCLI) == ["left", "right", "sum"]


def read(name: str) -> dict[str, Any]:
    """Return what a file declares."""
    content: dict[str, Any] = get_loader("yaml")((FOLDER / name).read_text())
    return content
