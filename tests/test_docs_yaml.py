"""Every block of YAML on a page is one that the command line takes: its own parser reads each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning import MultiTaskModule
from mtl_lightning.cli import program
from mtl_lightning.data import TableData
from tests.cli import run
from tests.test_docs import DOCS, PAGES

BLOCKS = [
    pytest.param(text, id=f"{page.relative_to(DOCS).with_suffix('')}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE))
]
BASE = """data: {class_path: TableData, init_args: {path: houses.csv, targets: [price]}}
model: {architecture: {class_path: SharedBottom, init_args: {encoder: {class_path: TabularEncoder}}}}
"""
STUDY = {"base", "entries", "tune", "ranges", "objective"}
DATA, MODEL = ({*inspect.signature(part).parameters} for part in (TableData, MultiTaskModule))


def whole(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a config, as pages show it, at its place in the whole."""
    if {*found} <= DATA:
        return {"data": {"class_path": "TableData", "init_args": {"path": "houses.csv", "targets": ["price"], **found}}}
    if {*found} == {"encoder"}:
        return {"model": {"architecture": {"class_path": "SharedBottom", "init_args": found}}}
    if {*found} <= MODEL:
        return {"model": found}
    return found


@pytest.mark.parametrize("text", BLOCKS)
def test_the_command_line_reads_it(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    found = yaml.safe_load(text)
    if STUDY & {*found}:
        Path("study.yaml").write_text(yaml.safe_dump({"base": "base.yaml", **found}))
        read: list[dict[str, Any]] = []
        command = "compare" if {"entries", "base"} & {*found} else "tune"
        study = wraps(program.STUDIES[command])(lambda **options: read.append(options))
        monkeypatch.setitem(program.STUDIES, command, study)
        run(monkeypatch, command, "--config", "study.yaml")
        assert read
        return
    Path("block.yaml").write_text(yaml.safe_dump(whole(found), sort_keys=False))
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "fit", "--config", "base.yaml", "--config", "block.yaml", "--print_config")
    assert end.value.code in (None, 0)
