"""The rooms of `data` know each other in one direction, as its docstring says."""

from __future__ import annotations

import ast
from pathlib import Path

import mtl_lightning.data

ROOT = Path(mtl_lightning.data.__file__).parent
BELOW: dict[str, set[str]] = {
    "seeding": set(),
    "archives": set(),
    "files": {"archives"},
    "rows": {"seeding"},
    "loader": {"rows", "seeding"},
    "saved": set(),
    "base": {"loader", "saved"},
    "table": {"base", "rows", "seeding"},
    "streaming": {"table", "loader", "rows", "seeding"},
    "per_task": {"saved", "seeding"},
}
BELOW["datasets"] = {*BELOW}
BELOW["__init__"] = {*BELOW}


def rooms_of(path: Path) -> set[str]:
    """The rooms of `data` that a file imports from."""
    modules = [node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    parts = [module.split(".") for module in modules if module.startswith("mtl_lightning.data.")]
    return {part[2] for part in parts}


def test_rooms_import_from_below_only() -> None:
    upward = {
        f"{path.relative_to(ROOT)} imports {room}"
        for path in ROOT.rglob("*.py")
        for here in [path.relative_to(ROOT).parts[0].removesuffix(".py")]
        for room in rooms_of(path) - BELOW[here] - {here}
    }
    assert not upward


def test_no_room_is_without_a_use() -> None:
    found = {room for path in ROOT.rglob("*.py") for room in rooms_of(path)}
    assert found == {*BELOW} - {"__init__"}
