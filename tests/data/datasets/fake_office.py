"""Arguments for Office on made files: those of both versions, in one root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_images import write_office


def arguments(folder: Path) -> dict[str, Any]:
    root = write_office(folder / "root")
    write_office(root, home=True)
    return {"root": str(root), "size": [32, 32], "batch_size": 4, "num_workers": 0}
