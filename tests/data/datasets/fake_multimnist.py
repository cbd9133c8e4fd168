"""Arguments for MultiMNIST and MultiFashion on made files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_images import write_mnist


def arguments(folder: Path) -> dict[str, Any]:
    write_mnist(folder / "root" / "MNIST" / "raw")
    write_mnist(folder / "root" / "FashionMNIST" / "raw", seed=1, compressed=False)
    return {"root": str(folder / "root"), "download": False, "val_fraction": 0.3, "batch_size": 8}
