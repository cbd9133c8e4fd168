"""The page of licences says what the installed packages say of themselves; the GPL comes with one extra alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.programs import ROOT
from tests.test_dependencies import names, project

PAGE = (ROOT / "docs" / "licences.md").read_text()
ROWS = dict(re.findall(r"^\| ([\w-]+) \| ([^|]+?) \| (?:always|`)", PAGE, flags=re.MULTILINE))
PINS = {
    canonicalize_name(requirement.name): next(iter(requirement.specifier)).version
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
    if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"})
}
"""Of the versions that the page is about; Python 3.10 has older ones of some."""
SPDX = {
    "Apache 2.0": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "CC0": "CC0-1.0",
    "License agreement for matplotlib versions 1.3.0 and later": "PSF-2.0",
    "MIT License": "MIT",
    "Copyright (c) 2001-2002 Enthought, Inc. 2003, SciPy Developers.": "BSD-3-Clause",
}
"""What packages without an expression write."""
STRONG = re.compile(r"\b[AL]?GPL|GNU .*General Public", flags=re.IGNORECASE)
UNDER_OTHERS = {"docutils"}  # whose metadata name the GPL for files that are not in the wheel
WEAK = re.compile(r"MPL-?\d|Mozilla Public License")


def said(name: str) -> list[str]:
    """All that a package's metadata say of its licence, the most exact first."""
    table: Any = metadata(name)  # typed without the `get` that it has
    classifiers = [line.rpartition(" :: ")[2] for line in table.get_all("Classifier") or [] if line[:7] == "License"]
    text = (table.get("License") or "").strip().partition("\n")[0].rstrip("= ")
    return [words for words in (table.get("License-Expression"), text, *classifiers) if words]


def has(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


@cache
def brought(name: str, extras: frozenset[str] = frozenset()) -> frozenset[str]:
    """The installed packages that one brings, itself among them, by what they ask for."""
    found: set[tuple[str, frozenset[str]]] = set()
    todo = [(canonicalize_name(name), extras)]
    while todo:
        one = todo.pop()
        if one in found or not has(one[0]):
            continue
        found.add(one)
        for requirement in map(Requirement, requires(one[0]) or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *one[1]}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return frozenset(package for package, _ in found)


def closure(requirements: Iterable[str]) -> set[str]:
    """What all of these bring; the project's own extras left out."""
    parsed = [Requirement(text) for text in requirements]
    return {
        package
        for requirement in parsed
        if canonicalize_name(requirement.name) != "mtl-lightning"
        for package in brought(requirement.name, frozenset(requirement.extras))
    }


def listed(table: dict[str, Any]) -> list[str]:
    return [*table["dependencies"], *(name for extra in table["optional-dependencies"].values() for name in extra)]


def test_the_page_lists_what_is_declared() -> None:
    assert {*ROWS} == names(listed(project()))


@pytest.mark.parametrize("name", ROWS)
def test_the_page_says_what_the_package_says(name: str) -> None:
    if not has(name) or version(name).partition("+")[0] != PINS.get(canonicalize_name(name)):
        pytest.skip("another version, or none, is installed")
    first, *others = said(name)
    found = SPDX.get(first, first)
    if found != ROWS[name]:  # a text in place of a name: the classifier tells
        assert len(first) > 20 or first in others, (name, first)
        assert any({"MIT License": "MIT", "BSD License": "BSD-3-Clause"}.get(word) == ROWS[name] for word in others)


def test_the_gpl_comes_with_solvers_alone() -> None:
    table = project()
    extras = table["optional-dependencies"]
    strong = {
        extra: {name for name in closure(wanted) - UNDER_OTHERS if any(map(STRONG.search, said(name)))}
        for extra, wanted in {"": table["dependencies"], **extras}.items()
    }
    if not has("qpsolvers"):
        pytest.skip("without the extra `solvers`")
    assert {extra for extra, found in strong.items() if found} == {"solvers"}
    line = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if "torchjd[full]" in line)
    copyleft = PAGE.partition("## Copyleft")[2]
    assert all(f"`{name}`" in copyleft for name in UNDER_OTHERS)
    for name in strong["solvers"]:
        assert f"`{name}`" in copyleft
        assert name in line


def test_files_under_the_mpl_are_named() -> None:
    weak = {name for name in closure(listed(project())) if any(map(WEAK.search, said(name)))}
    assert "tqdm" in weak
    assert {name for name in weak if f"`{name}`" not in PAGE} == set()
