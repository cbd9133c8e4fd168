"""The site as it is built, and what stands in its inventory."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtl_lightning import __name__ as package
from tests.programs import ROOT

DOCS = ROOT / "docs"


def built(folder: Path) -> Path:
    """Return the folder of the site: the one that ``MTL_LIGHTNING_SITE`` names, else one that is built here."""
    if named := os.environ.get("MTL_LIGHTNING_SITE"):
        return Path(named)
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def described(site: Path) -> set[str]:
    """Return the full names of what the reference describes."""
    content = (site / "objects.inv").read_bytes()
    text = zlib.decompress(content.split(b"\n", 4)[4]).decode()
    return {line.split(" ")[0] for line in text.splitlines() if " py:" in line}


def public() -> Iterator[tuple[str, set[str]]]:
    """Yield each public name of each package, and the full names by which the reference may describe it."""
    for path in sorted((ROOT / package).rglob("__init__.py")):
        if re.search(r"^__all__", path.read_text(), flags=re.MULTILINE):
            module = ".".join(path.relative_to(ROOT).parent.parts)
            home = importlib.import_module(module)
            for name in home.__all__:
                found = getattr(home, name)
                own = f"{getattr(found, '__module__', module)}.{getattr(found, '__qualname__', name)}"
                yield f"{module}.{name}", {f"{module}.{name}", own}
