"""Arguments that make a small MultiDigit, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def arguments(folder: Path) -> dict[str, Any]:
    return {"sizes": (60, 25, 30), "sum": True, "batch_size": 16}
