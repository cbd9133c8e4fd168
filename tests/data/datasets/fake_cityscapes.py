"""Arguments for Cityscapes on made files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_dense import write_cityscapes

SMALL = ["--model.architecture.init_args.encoder.init_args.depth=18", "--model.heads.default.init_args.channels=16"]


def arguments(folder: Path) -> dict[str, Any]:
    root = write_cityscapes(folder / "root")
    return {"root": str(root), "augment": False, "val_fraction": 0.3, "batch_size": 2, "num_workers": 0}
