"""What the documentation claims is backed: every test that a page names exists, and every claim has one."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.programs import ROOT, start

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CLAIMS = ROOT / "tests" / "conformance" / "claims.csv"
COLUMNS = [f"{kind} balancer{where}" for kind in ("loss", "gradient") for where in ("", ", DDP", ", FSDP2")]
"""Those of the matrix, as the file of claims calls them."""


def named(page: Path) -> set[str]:
    """The test ids on a page."""
    return set(re.findall(r"`(tests/[\w/]+\.py::[^`]+)`", page.read_text()))


def claims() -> dict[tuple[str, str], str]:
    """The test of each cell of the matrix, by feature and column."""
    with CLAIMS.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    found = {(row["feature"], row["where"]): row["test"] for row in rows}
    assert len(found) == len(rows), "a cell twice"
    return found


@pytest.fixture(scope="module")
def existing() -> set[str]:
    """All test ids of the files that pages and claims name, with and without the case in brackets."""
    tests = [*claims().values(), *(test for page in PAGES for test in named(page))]
    files = sorted({test.split("::")[0] for test in tests})
    missing = [file for file in files if not (ROOT / file).is_file()]
    assert not missing, f"the docs name files that do not exist: {missing}"
    (program,) = start("pytest", "--collect-only", "-q", "-o", "addopts=", "-p", "no:xdist", *files)
    listed = program.stdout.read()
    assert program.wait(timeout=300) == 0, listed[-3000:]
    cases = {line for line in listed.splitlines() if "::" in line}
    return cases | {case.split("[")[0] for case in cases}


@pytest.mark.slow
def test_the_tests_that_pages_and_claims_name_exist(existing: set[str]) -> None:
    for page in PAGES:
        assert sorted(named(page) - existing) == [], page
    assert sorted({*claims().values()} - existing) == []


def test_every_claim_of_the_matrix_has_a_test() -> None:
    cells: dict[tuple[str, str], str] = {}
    for line in (DOCS / "lightning.md").read_text().splitlines():
        if line.startswith("| ") and "| --- |" not in line and not line.startswith("| |"):
            feature, *words = (cell.strip() for cell in line.strip("|").split("|"))
            feature = re.sub(r" \(notes? [\d, ]+\)", "", feature)
            cells |= {(feature, column): word for column, word in zip(COLUMNS, words, strict=True)}
    assert len(cells) > 200
    assert {*cells.values()} == {"works", "differs", "refused", "does not apply"}
    assert {cell for cell, word in cells.items() if word != "does not apply"} == {*claims()}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_root_lead_to_files(page: str) -> None:
    """Those of the site's pages are checked when it is built."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150, "it leads to the pages, which have the rest"
