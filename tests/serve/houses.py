"""A checkpoint and an export of a table of houses."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import torch
from lightning.pytorch import Trainer

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.data import TableData

PAGE = Path(__file__).parent.parent.parent / "docs/production.md"


def rows(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with gaps, and kinds that training never saw."""
    random = np.random.default_rng(seed)
    kinds = random.choice(["boat", "flat", "house", "castle"], number, p=[0.3, 0.3, 0.3, 0.1]).tolist()
    return [
        {
            "area": None if gap < 0.1 else round(area, 2),
            "rooms": int(count),
            "kind": None if 0.1 < gap < 0.2 else kind,
        }
        for area, count, kind, gap in zip(
            random.normal(100, 30, number), random.integers(1, 9, number), kinds, random.random(number), strict=True
        )
    ]


def table(number: int = 300) -> Any:
    """The rows that are trained on, with their targets."""
    found = [row for row in rows(2 * number) if row["kind"] != "castle"][:number]
    random = np.random.default_rng(1)
    price = [3000.0 * (row["area"] or 100.0) + 10_000 * row["rooms"] for row in found]
    return pa.table(
        {
            **{name: [row[name] for row in found] for name in ("area", "rooms", "kind")},
            "price": price,
            "sold": random.choice(["no", "yes"], number),
            "style": random.choice(["art", "brick", "clay"], number),
        }
    )


def commands() -> list[list[str]]:
    """Return the five commands of docs/production.md, without the program's name."""
    block = re.search(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert block is not None
    found = [shlex.split(line) for line in block[1].splitlines()]
    assert [words[0] for words in found] == ["mtl-lightning"] * 5
    return [words[1:] for words in found]


def written(folder: Path) -> None:
    """Write the files that these commands read."""
    pq.write_table(table(), folder / "houses.parquet")
    new = rows(20, seed=9)
    pc.write_csv(
        pa.table({"id": range(20), **{name: [row[name] for row in new] for name in new[0]}}), folder / "new.csv"
    )
    config = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert config is not None
    (folder / "houses.yaml").write_text(config[1])


def exported(folder: Path, architecture: Any = None, targets: Any = None, format: Any = "onnx") -> Path:
    """Write `houses.parquet`, `last.ckpt` and `exported` into a folder, and return it."""
    pq.write_table(table(), folder / "houses.parquet")
    torch.manual_seed(0)
    columns: dict[str, Any] = {"numeric": ["rooms"], "ignore": ["price", "sold", "style"] if targets else []}
    data = TableData(
        path=str(folder / "houses.parquet"), targets=targets or ["price", "sold", "style"], **columns, unseen_share=None
    )
    module = MultiTaskModule(
        tasks=data.tasks,
        architecture=architecture or partial(SharedBottom, encoder=partial(TabularEncoder, hidden=(8,))),
        input_spec=data.input_spec,
        reads=None if architecture else {"price": ["sold"]},
    )
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "last.ckpt")
    module.export(folder / "exported", format=format)
    return folder
