"""What the documentation claims is backed: every test that a page names exists, and every claim names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.programs import ROOT, start

PAGES = sorted((ROOT / "docs").glob("*.md"))
CLAIMS = ("works", "differs", "refused")


def named(page: Path) -> set[str]:
    """The test ids on a page."""
    return set(re.findall(r"`(tests/[\w/]+\.py::[^`]+)`", page.read_text()))


@pytest.fixture(scope="module")
def existing() -> set[str]:
    """All test ids of the files that pages name, with and without the case in brackets."""
    files = sorted({test.split("::")[0] for page in PAGES for test in named(page)})
    missing = [file for file in files if not (ROOT / file).is_file()]
    assert not missing, f"the docs name files that do not exist: {missing}"
    (program,) = start("pytest", "--collect-only", "-q", "-o", "addopts=", "-p", "no:xdist", *files)
    listed = program.stdout.read()
    assert program.wait(timeout=300) == 0, listed[-3000:]
    cases = {line for line in listed.splitlines() if "::" in line}
    return cases | {case.split("[")[0] for case in cases}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tests_that_a_page_names_exist(page: Path, existing: set[str]) -> None:
    assert sorted(named(page) - existing) == []


def test_every_claim_of_the_matrix_names_a_test() -> None:
    text = (ROOT / "docs" / "lightning.md").read_text()
    numbers = {int(number) for number in re.findall(r"^(\d+)\. `tests/", text, flags=re.MULTILINE)}
    cells = [
        cell.strip()
        for line in text.splitlines()
        if line.startswith("| ") and "| --- |" not in line and not line.startswith("| |")
        for cell in line.strip("|").split("|")[1:]
    ]
    assert len(cells) > 200
    used = set()
    for cell in cells:
        word, _, number = cell.partition(" [")
        if word in CLAIMS:
            used.add(int(number.removesuffix("]")))
        else:
            assert cell == "does not apply"
    assert used == numbers
