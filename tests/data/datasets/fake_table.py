"""Arguments for TableData on a made folder of files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_tables import houses, write_table


def arguments(folder: Path) -> dict[str, Any]:
    for part in range(2):
        write_table(folder / "houses" / f"part{part}.csv", houses(60, seed=part, missing=0.2))
    return {
        "path": str(folder / "houses"),
        "targets": ["price", "sold", "kind"],
        "ignore": ["id", "street"],
        "batch_size": 16,
    }
