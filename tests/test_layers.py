"""The arrows of the layers point down: read from the imports in the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mtl_lightning

ROOT = Path(mtl_lightning.__file__).parent
LEVEL_0 = ("types", "describe")
LEVEL_1 = ("tasks", "balancing", "architectures", "data", "metrics")
MAY_IMPORT = {
    "types": (),
    "describe": ("types",),
    "tasks": LEVEL_0,
    "balancing": LEVEL_0,
    "architectures": LEVEL_0,
    "metrics": LEVEL_0,
    "data": (*LEVEL_0, "tasks"),
    "core": (*LEVEL_0, "metrics"),  # and the base modules of level 1, below
    "callbacks": (*LEVEL_0, "core", "metrics"),  # likewise
    "cli": (*LEVEL_0, "core", "callbacks", "metrics", *LEVEL_1),
    "__main__": ("cli",),
    "__init__": ("core",),
}
ONLY_BASES = ("core", "callbacks")
CONTRACTS = {f"mtl_lightning.{package}.base" for package in LEVEL_1} | {
    f"mtl_lightning.balancing.{name}" for name in ("build", "rows", "lookahead")
}
MAY_USE_LIGHTNING = ("core", "callbacks", "cli", "data")
FILES = sorted(ROOT.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, `from package import module` included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names.add(module)
            if module == "mtl_lightning":
                names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    here = layer(path)
    for name in imported(path):
        if not name.startswith("mtl_lightning."):
            continue
        there = name.split(".")[1]
        if there == here:
            continue
        base_only = here in ONLY_BASES and there in LEVEL_1 and name in CONTRACTS
        assert there in MAY_IMPORT[here] or base_only, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_upper_layers_know_lightning(path: Path) -> None:
    uses = any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in imported(path))
    assert not uses or layer(path) in (*MAY_USE_LIGHTNING, "__init__"), f"{path.name} imports lightning"


def test_the_test_sees_an_arrow_that_points_up(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("from mtl_lightning.core.module import MultiTaskModule\nfrom mtl_lightning import cli\n")
    assert imported(file) >= {"mtl_lightning.core.module", "mtl_lightning.cli"}


def test_core_names_no_concrete_part() -> None:
    from mtl_lightning import architectures, balancing, tasks

    allowed = {"Task", "Balancer", "Architecture", "Encoder", "Head", "Linear"}
    concrete = {name for package in (architectures, balancing, tasks) for name in package.__all__} - allowed
    concrete = {name for name in concrete if name[0].isupper() and not name.endswith(("Argument", "Factory"))}
    for path in (ROOT / "core").glob("*.py"):
        used = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not used & concrete, f"{path.name} names {used & concrete}"
