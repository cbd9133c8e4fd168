"""What the documentation claims is backed: every test that a page names exists, and every claim names one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True).stdout
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
