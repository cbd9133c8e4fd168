"""What the pages' readers have and a test has not: a table, a trained model. Pages ask for it in comments."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lightning.pytorch import Trainer

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.callbacks import Calibration
from mtl_lightning.data import MultiTaskDataModule, TableData

HEADER = "id,area,town,rooms,price,sold,style"


def houses(path: str = "houses.csv", rows: int = 400) -> None:
    """Write a table of houses, in which some labels are missing."""
    lines = [
        f"h{n},{40 + n * 7 % 90}.{n % 10},{('Ulm', 'Bonn', 'Jena')[n % 3]},{2 + n % 4},"
        f"{100 + n * 7 % 90 + 30 * (n % 3)}.{n * 3 % 10},{('yes', 'no')[n // 2 % 2] if n % 5 else ''},"
        f"{('flat', 'villa', 'hut')[n // 5 % 3]}"
        for n in range(rows)
    ]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join([HEADER, *lines, ""]))


def table(*targets: str) -> MultiTaskDataModule:
    """The data of that table; three tasks, or some of them."""
    houses()
    chosen = targets or ("price", "sold", "style")
    others = [name for name in ("price", "sold", "style") if name not in chosen]
    return TableData(path="houses.csv", targets=[*chosen], numeric=["rooms"], ids=["id"], ignore=others)


def model(data: MultiTaskDataModule) -> MultiTaskModule:
    """A small network for it."""
    encoder = partial(TabularEncoder, hidden=[16])
    return MultiTaskModule(data.tasks, partial(SharedBottom, encoder=encoder), input_spec=data.input_spec)


def trained(*targets: str, path: str = "best.ckpt") -> None:
    """Train it for an epoch, with calibration, and write a checkpoint."""
    data = table(*targets)
    trainer = Trainer(max_epochs=1, callbacks=[Calibration()], enable_checkpointing=False)
    trainer.fit(model(data), data)
    trainer.save_checkpoint(path)
