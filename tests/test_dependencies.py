"""Whatever is imported is declared in `pyproject.toml`: as a dependency, in an extra, or for the tests."""

from __future__ import annotations

import ast
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("mtl_lightning", "tests", "benchmarks")
BEHIND_AN_EXTRA = ("serve",)
"""Packages that are imported only with the extra of their name."""
PEERS = ROOT / "benchmarks" / "peers"
"""Programs that run in environments of their own, which are no part of the project."""
Imports = dict[str, str]
"""Names of foreign packages, with a file that imports each."""


def project() -> dict[str, Any]:
    """The project's table; on the Pythons that can read it."""
    tomllib = pytest.importorskip("tomllib")
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, in one spelling; the project itself among them left out."""
    found = {requirement.split(";")[0].split("[")[0] for requirement in requirements}
    plain = {name.split("=")[0].rstrip("<>!~ ") for name in found}
    return {name.replace("_", "-").lower() for name in plain} - {"mtl-lightning"}


def foreign(folder: Path, everywhere: bool) -> Imports:
    """What the files of a folder import: at their top alone, or in functions as well."""
    found: Imports = {}
    for path in sorted(path for path in folder.rglob("*.py") if PEERS not in path.parents):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree) if everywhere else tree.body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for top in {module.partition(".")[0] for module in modules} - {*OURS, *sys.stdlib_module_names}:
                found.setdefault(top, str(path.relative_to(ROOT)))
    return found


@cache
def distributions() -> dict[str, list[str]]:
    """The distributions that bring each package, by its name."""
    return {top: [*brought] for top, brought in packages_distributions().items()}


def undeclared(imports: Imports, declared: set[str]) -> list[str]:
    """Those that no declared distribution brings."""

    def brought(top: str) -> bool:
        return any(name.replace("_", "-").lower() in declared for name in distributions().get(top, [top]))

    return [f"{file} imports {top}" for top, file in sorted(imports.items()) if not brought(top)]


def test_every_import_of_the_package_is_declared() -> None:
    table = project()
    needed, extras = names(table["dependencies"]), table["optional-dependencies"]
    at_import = foreign(ROOT / "mtl_lightning", everywhere=False)
    behind = {room: foreign(ROOT / "mtl_lightning" / room, everywhere=False) for room in BEHIND_AN_EXTRA}
    for extra, imports in behind.items():
        assert undeclared(imports, needed | names(extras[extra])) == []
        at_import = {top: file for top, file in at_import.items() if f"/{extra}/" not in file}
    assert undeclared(at_import, needed) == []
    for_users = {name for extra, listed in extras.items() if extra not in ("test", "dev") for name in names(listed)}
    assert undeclared(foreign(ROOT / "mtl_lightning", everywhere=True), needed | for_users) == []


@pytest.mark.slow
def test_every_import_of_the_tests_is_declared() -> None:
    table = project()
    extras = table["optional-dependencies"]
    declared = names([*table["dependencies"], *(name for listed in extras.values() for name in listed)])
    for folder in ("tests", "benchmarks", "notebooks"):
        assert undeclared(foreign(ROOT / folder, everywhere=True), declared) == []


def test_an_import_that_nobody_declared_is_found(tmp_path: Path) -> None:
    imports = {"torch": "a.py", "yaml": "b.py", "filelock": "c.py", "unheard_of": "d.py"}
    assert undeclared(imports, {"torch", "pyyaml"}) == ["c.py imports filelock", "d.py imports unheard_of"]
    assert names(["torchjd[full]>=0.18,<0.19", "PyYAML>=6", "mtl-lightning[test]", "a_b; python_version < '3.11'"]) == {
        "torchjd",
        "pyyaml",
        "a-b",
    }


def test_every_bound_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start, end = lines.index("dependencies = ["), lines.index("[project.scripts]")
    bounds = [
        line for line in lines[start:end] if line.startswith('    "') and not line.startswith('    "mtl-lightning')
    ]
    assert len(bounds) >= 20
    bare = [line for line in bounds if "# " not in line]
    assert all(">=" in line for line in bounds)
    assert not bare
