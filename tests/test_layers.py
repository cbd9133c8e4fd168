"""The arrows of the layers point down, and no files import each other in a ring: read from the imports in the source.

An import counts wherever it stands: at the top of a file, under ``TYPE_CHECKING``, or in a function.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path

import pytest

import mtl_lightning

ROOT = Path(mtl_lightning.__file__).parent
Arrows = dict[str, set[str]]
"""What each module imports of its package, both by their names within it; the package's own ``__init__`` is ``""``."""


def floors(package: str, *rooms: str, on: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Return what the rooms of a package may import: those that stand below them, and what it all stands on.

    Args:
        package: whose ``__init__`` stands above all.
        rooms: of a package, from the top down; those with names between bars, ``a|b``, stand side by side.
        on: other rooms that all of them may import.
    """
    allowed: dict[str, tuple[str, ...]] = {}
    below = tuple(on)
    for floor in reversed(rooms):
        names = tuple(f"{package}.{name}" for name in floor.split("|"))
        allowed |= dict.fromkeys(names, below)
        below = (*names, *below)
    return {package: below, **allowed}


LEVEL_0 = (
    "types",
    "describe",
    "errors",
    "names",
    "nested",
    "ranges",
    "plain",
    "layout",
    "checkpoint_file",
    "rebuild",
    "text_table",
    "trust",
    "version",
)
BASES = (
    "tasks.base",
    *(f"balancing.{name}" for name in ("base", "rows", "gramian", "lookahead", "build")),
    "architectures.base",
)
CORE = floors(
    "core",
    "module",
    "compat|evaluation|checkpoint",
    "update",
    "update.gradients",
    "update.losses",
    "update.window",
    "update.batches|update.without_side_effects",
    "optim",
    "sharding|compilation",
    "network",
    "runtime",
    "spectators|host_number|host_group|on_device",
    on=(*LEVEL_0, *BASES),
)
BALANCING = floors(
    "balancing",
    "build|scalarizer",
    "torchjd",
    "gradients",
    "losses",
    "tools",
    "rows|lookahead",
    "base",
    "tools.seeded_generator|gramian",
    on=LEVEL_0,
)
ENCODING = floors(
    "encoding",
    "lenient",
    "encoder",
    "drift",
    "kinds",
    "kinds.listed|kinds.text|kinds.vector",
    "kinds.hashed|kinds.elements",
    "kinds.readable",
    "kinds.base|kinds.hashing",
    "values",
    "reader",
    "bounds",
    "pages|cells",
    "moments|notation|plain_arrays|sizes",
    on=LEVEL_0,
)
PREDICTOR = floors(
    "predictor",
    "predictor",
    "checkpoint",
    "intake",
    "answers",
    "tables|arrays|report|decode",
    "description",
    on=(*LEVEL_0, *ENCODING),
)
PREDICTOR["predictor.predictor"] += ("exported",)
PREDICTOR["predictor.checkpoint"] += ("core.module", "core.network")  # imported when a checkpoint is opened
DATA = floors(
    "data",
    "datasets",
    "per_task|streaming",
    "table",
    "base",
    "loader|saved|differences",
    "rows",
    "seeding|files|ids",
    "archives",
    on=(*LEVEL_0, *ENCODING, "tasks", "tasks.base"),
)
ANSWERS = tuple(f"predictor.{name}" for name in ("answers", "decode", "description"))
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "version": (),
    "nested": (),
    "text_table": (),
    "ranges": ("errors", "nested"),
    "describe": ("errors", "ranges"),
    "layout": (),
    "types": ("errors", "describe", "layout"),
    "trust": ("errors",),
    "checkpoint_file": ("errors",),
    "rebuild": ("errors", "describe", "trust"),
    **dict.fromkeys(("names", "plain"), ("errors",)),
    "metrics": LEVEL_0,
    "calibration": (*LEVEL_0, "tasks.base"),
    "tasks": (*LEVEL_0, "tasks.base"),
    "tasks.base": (*LEVEL_0, "tasks"),
    "architectures": (*LEVEL_0, "architectures.base"),
    "architectures.base": (*LEVEL_0, "architectures"),
    **ENCODING,
    **PREDICTOR,
    **DATA,
    **BALANCING,
    **CORE,
    **{room: (*CORE[room], "export") for room in ("core", "core.module", "core.compat")},
    "exported": ("errors",),
    "serve": (*LEVEL_0, *ENCODING, *PREDICTOR),
    "export": (*LEVEL_0, "exported", "predictor.description", "core.network", *BASES),
    "callbacks": (*LEVEL_0, "metrics", "calibration", *ANSWERS, *CORE, *BASES),
    "study": (*LEVEL_0, "metrics"),
    "lr_find": (*LEVEL_0, *CORE, *BASES),
    "cli": (
        *LEVEL_0,
        "study",
        "lr_find",
        "export",
        "exported",
        "serve",
        "metrics",
        "calibration",
        "tasks",
        "architectures",
        *BALANCING,
        *ENCODING,
        *PREDICTOR,
        *DATA,
        *CORE,
        "callbacks",
        *BASES,
    ),
    "__main__": ("cli",),
    "": ("core", "predictor", "version"),
}
"""What the files of each room may import beside each other. A file is in the room with the longest name that it is in.

Tasks, balancers and architectures do not know each other; core and the callbacks know the bases alone.
"""
NO_LIGHTNING = (
    *LEVEL_0,
    "study",
    "metrics",
    "calibration",
    "tasks",
    "balancing",
    "architectures",
    "core.network",
    "export",
    "exported",
    "serve",
)
"""Where nothing knows Lightning."""
WITH_TORCH = ("predictor.checkpoint", "exported.pt2_model")
"""What of them is imported only when it is used."""
TORCH_FREE = (
    "",
    "errors",
    "names",
    "nested",
    "ranges",
    "trust",
    "text_table",
    "version",
    "encoding",
    "predictor",
    "exported",
)
"""What can be imported where neither torch nor Lightning is installed."""


# --------------------------------------------------------------------------------------------------- what is imported
def files(root: Path) -> dict[str, Path]:
    """Return the files of a package by the names of their modules within it."""
    paths = {path.relative_to(root).with_suffix(""): path for path in sorted(root.rglob("*.py"))}
    return {".".join(name.parts).removesuffix("__init__").rstrip("."): path for name, path in paths.items()}


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the full names that a file imports: of modules, and of what is taken from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def at_import(path: Path) -> set[str]:
    """Return the full names that a file imports when it is imported itself, not in a function that is called later."""
    top = ast.parse(path.read_text()).body
    found = [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [alias.name for node in found if isinstance(node, ast.Import) for alias in node.names]
    return {*modules, *(node.module or "" for node in found if isinstance(node, ast.ImportFrom))}


def arrows(root: Path) -> Arrows:
    """Return what each module of a package imports of it."""
    modules = files(root)

    def module_of(name: str) -> str:
        own = name.removeprefix(root.name).removeprefix(".")
        while own not in modules:
            own = own.rpartition(".")[0]
        return own

    return {
        module: {module_of(name) for name in imported(path) if name.split(".")[0] == root.name} - {module}
        for module, path in modules.items()
    }


def room_of(module: str, rooms: Mapping[str, object]) -> str:
    """Return the room that a module is in."""
    while module not in rooms:
        module = module.rpartition(".")[0]
    return module


def wrong_arrows(found: Arrows, may_import: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the imports that a table of rooms forbids."""
    wrong = []
    for module, others in found.items():
        here = room_of(module, may_import)
        if module and not here:
            wrong.append(f"{module} is in no room")
        for other in sorted(others):
            there = room_of(other, may_import)
            if here != there and there not in may_import[here]:
                wrong.append(f"{module or '__init__'} imports {other or '__init__'}")
    return wrong


def rings(found: Arrows) -> list[list[str]]:
    """Return the modules that import each other, directly or through others (Tarjan's algorithm)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    result: list[list[str]] = []
    counter = count()

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = next(counter)
        path.append(module)
        for other in sorted(found[module]):
            if other not in numbers:
                visit(other)
            if other in path:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == numbers[module]:
            ring = path[path.index(module) :]
            del path[path.index(module) :]
            if len(ring) > 1:
                result.append(sorted(ring))

    for module in found:
        if module not in numbers:
            visit(module)
    return result


# ---------------------------------------------------------------------------------------------------------------- tests
def test_imports_point_down() -> None:
    wrong = wrong_arrows(arrows(ROOT), MAY_IMPORT)
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_ring() -> None:
    found = rings(arrows(ROOT))
    assert not found, "\n".join(map(", ".join, found))


def test_only_the_upper_layers_know_lightning() -> None:
    wrong = [
        module
        for module, path in files(ROOT).items()
        if any(f"{module}.".startswith(f"{room}.") for room in NO_LIGHTNING)
        and {"lightning", "pytorch_lightning"} & {name.partition(".")[0] for name in imported(path)}
    ]
    assert not wrong


def test_what_is_free_of_torch_imports_only_what_is_free_of_torch() -> None:
    found = files(ROOT)
    free = {module for module in found if room_of(module, dict.fromkeys(TORCH_FREE)) or not module} - {*WITH_TORCH}
    for module in free:
        for name in at_import(found[module]):
            package, _, own = name.partition(".")
            assert package not in ("torch", "lightning", "pytorch_lightning", "torchmetrics"), module
            assert package != ROOT.name or room_of(own, dict.fromkeys(TORCH_FREE)) in free, f"{module}: {name}"


@pytest.mark.parametrize("module", ["mtl_lightning", "mtl_lightning.encoding", "mtl_lightning.predictor"])
def test_neither_torch_nor_lightning_is_imported(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'lightning', 'torchmetrics'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_package_gives_its_names_when_they_are_asked_for() -> None:
    assert {*mtl_lightning.__all__} <= {*dir(mtl_lightning)}
    assert mtl_lightning.MultiTaskModule.__module__ == "mtl_lightning.core.module"
    assert mtl_lightning.tasks.__name__ == "mtl_lightning.tasks"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(mtl_lightning, "nothing")  # noqa: B009  # there is none


def test_core_names_no_concrete_part() -> None:
    from mtl_lightning import architectures, balancing, tasks

    allowed = {"Task", "Balancer", "Architecture", "Encoder", "Head", "Linear"}
    concrete = {name for package in (architectures, balancing, tasks) for name in package.__all__} - allowed
    concrete = {name for name in concrete if name[0].isupper() and not name.endswith(("Argument", "Factory"))}
    wrong = [
        f"{path.relative_to(ROOT)} names {node.id}"
        for path in (ROOT / "core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in concrete
    ]
    assert not wrong, "\n".join(wrong)


# ------------------------------------------------------------------------------------------------- the tests see faults
@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a ring, an arrow that points up, and rightful imports."""
    sources = {
        "__init__.py": "from package.upper.module import Module",
        "lower.py": "import os\n",
        "upper/__init__.py": "from package.upper import module, first\nfrom package.upper.second import b",
        "upper/module.py": "from package import lower\n",
        "upper/first.py": "if TYPE_CHECKING:\n    from package.upper.second import b\n",
        "upper/second.py": "def b():\n    import package.upper.third\n",
        "upper/third.py": "from package.upper.first import a\n",
        "upper/own.py": "import package.upper.module\n",
        "side.py": "def f():\n    from package.upper import module\n",
    }
    for name, source in sources.items():
        file = tmp_path / "package" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return tmp_path / "package"


def test_rings_are_found_under_type_checking_and_in_functions(package: Path) -> None:
    assert rings(arrows(package)) == [["upper.first", "upper.second", "upper.third"]]
    imported.cache_clear()
    (package / "upper/own.py").write_text("from package.upper import nothing_that_is_a_module")
    (package / "upper/__init__.py").write_text("import package.upper.own")
    assert ["upper", "upper.own"] in rings(arrows(package))


def test_arrows_that_point_up_are_found(package: Path) -> None:
    table = {
        "": ("upper.module",),
        "lower": (),
        "side": ("lower",),
        **floors("upper", "module", "third", on=("lower",)),
    }
    assert wrong_arrows(arrows(package), table) == [
        "side imports upper.module",
        "upper.third imports upper.first",
    ]
    assert wrong_arrows(arrows(package), {**table, "upper.module": ()}) == [
        "side imports upper.module",
        "upper.module imports lower",
        "upper.third imports upper.first",
    ]
    del table["lower"]
    assert "lower is in no room" in wrong_arrows(arrows(package), table)
