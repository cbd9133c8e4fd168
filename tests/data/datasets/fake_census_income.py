"""Arguments for CensusIncome on made files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_tables import write_census


def arguments(folder: Path) -> dict[str, Any]:
    return {"root": str(write_census(folder / "root")), "batch_size": 16}
