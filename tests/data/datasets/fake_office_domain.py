"""Arguments for one domain of Office-31 on made files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_images import write_office


def arguments(folder: Path) -> dict[str, Any]:
    root = write_office(folder / "root")
    return {"root": str(root), "domain": "dslr", "size": [16, 18], "batch_size": 4, "num_workers": 0}
