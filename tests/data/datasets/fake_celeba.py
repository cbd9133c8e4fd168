"""Arguments for CelebA on made files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_images import write_celeba


def arguments(folder: Path) -> dict[str, Any]:
    some = ["Young", "Bald", "Smiling", "Male", "Eyeglasses"]  # of 40, not in the order of the file
    return {"root": str(write_celeba(folder / "root")), "attributes": some, "batch_size": 4, "num_workers": 0}
