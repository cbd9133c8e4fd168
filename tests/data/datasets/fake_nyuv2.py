"""Arguments for NYUv2 on made files, for the tests of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.make_dense import write_nyuv2

SMALL = ["--model.architecture.init_args.encoder.init_args.widths=[8,8,16,16,16]"]  # full width: 44 million parameters


def arguments(folder: Path) -> dict[str, Any]:
    root = write_nyuv2(folder / "root")
    return {"root": str(root), "augment": False, "val_fraction": 0.3, "batch_size": 2, "num_workers": 0}
