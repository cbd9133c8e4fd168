"""Arguments for QM9 on made files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_tables import write_qm9


def arguments(folder: Path) -> dict[str, Any]:
    return {"root": str(write_qm9(folder / "root")), "val": 9, "test": 11, "batch_size": 16}
