"""Arguments for Flights on made files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_tables import write_flights


def arguments(folder: Path) -> dict[str, Any]:
    return {"root": str(write_flights(folder / "root")), "batch_size": 32}
