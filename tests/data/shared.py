"""Files that are shared beside the repository but are no part of it; tests that need them are skipped without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name: str) -> Path:
    """Return a file or folder of the shared data, or skip the test."""
    if not (SHARED / name).exists():
        pytest.skip(f"the shared data ({name}) is not here")
    return SHARED / name


def copied(name: str, folder: Path) -> Path:
    """Copy a folder of the shared data, since a datamodule locks its root by a file in it."""
    return Path(shutil.copytree(shared(name), folder, copy_function=shutil.copyfile))


def layout(folder: Path) -> set[str]:
    """Names of all files below a folder, with digits blanked out."""
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return {"".join("0" if letter.isdigit() else letter for letter in path) for path in paths}
