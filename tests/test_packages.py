"""What users install: the wheel and the sdist hold what they should, and nothing else."""

from __future__ import annotations

import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
SOURCES = {str(path.relative_to(ROOT)) for path in (ROOT / "mtl_lightning").rglob("*.py")} | {"mtl_lightning/py.typed"}
SMALL = 1_500_000  # bytes; pages and their figures are a quarter of the sdist


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, built without the network."""
    made = tmp_path_factory.mktemp("dist")
    for builder in (WheelBuilder(str(ROOT)), SdistBuilder(str(ROOT))):
        list(builder.build(directory=str(made)))
    return made


def test_the_wheel_holds_the_package(folder: Path) -> None:
    (path,) = folder.glob("*.whl")
    assert path.stat().st_size < SMALL
    with ZipFile(path) as wheel:
        names = set(wheel.namelist())
        rest = {name.partition("/")[2] for name in names - SOURCES}
        assert names >= SOURCES
        assert rest == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
        (entries,) = (wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
        (metadata,) = (wheel.read(name).decode() for name in names if name.endswith("METADATA"))
    assert "mtl-lightning = mtl_lightning.cli:main" in entries
    assert "# mtl_lightning" in metadata  # the README


def test_the_sdist_holds_what_builds_and_explains_it(folder: Path) -> None:
    (path,) = folder.glob("*.tar.gz")
    assert path.stat().st_size < SMALL
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    plain = {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CITATION.cff",
        "constraints.txt",
        "LICENSE",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
    }
    assert names >= SOURCES | plain
    rest = {name for name in names - SOURCES - plain if not name.startswith(("configs/", "docs/"))}
    assert rest == set()
    shipped = {f"configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert names >= shipped
    assert names >= {"docs/methods.md", "docs/images/multidigit.png"}
