"""Arguments for a small SyntheticShapes, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SMALL = ["--data.init_args.sizes=[48,16,16]"]


def arguments(folder: Path) -> dict[str, Any]:
    return {"sizes": (20, 9, 9), "height": 12, "width": 16, "batch_size": 8}
