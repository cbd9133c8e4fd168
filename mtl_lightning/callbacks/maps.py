"""Dense predictions: a file per row of the data, in a folder per task."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mtl_lightning.core.update.figures import png

MapFormat: TypeAlias = Literal["npy", "png"]
METADATA = "metadata.json"


class MapPart:
    """The files of one process, hidden until all of them are there.

    Args:
        folder: where they will be, as ``{folder}/{column}/{row}.npy``.
        rank: r; row p of this process is row ``p * W + r`` of the data.
        world: W, the number of processes.
        form: of class maps: ``npy``, or ``png`` (8 bits, grey); other maps are always ``npy``.
        small: columns whose integers are below 256; they are written as uint8.
    """

    def __init__(self, folder: Path, rank: int, world: int, form: MapFormat, small: Collection[str]) -> None:
        self.folder, self.rank, self.world, self.form, self.small = folder, rank, world, form, small
        self.hidden = folder.with_name(f".{folder.name}.part{rank}")
        self.rows = 0
        self.discard()  # what a run that was killed may have left

    def write(self, columns: Mapping[str, Tensor]) -> None:
        """Add a batch of maps (B, H, W) or (B, C, H, W), by column."""
        for name, column in columns.items():
            (self.hidden / name).mkdir(parents=True, exist_ok=True)
            classes = not column.is_floating_point() and name in self.small
            column = column.detach().cpu()
            column = column.byte() if classes else column.float() if column.is_floating_point() else column
            for place, values in enumerate(column.numpy(), self.rows):
                if classes and self.form == "png" and values.ndim == 2:
                    (self.hidden / name / f"{place}.png").write_bytes(png(values))
                else:
                    np.save(self.hidden / name / f"{place}.npy", values)
        self.rows += len(next(iter(columns.values())))

    def complete(self, rows: int, metadata: Mapping[str, Any] | None) -> None:
        """Give the files their names, one by one.

        Args:
            rows: of the data; files of rows at or beyond it were made up, and are dropped, those of an earlier run too.
            metadata: for the folder; None for all processes but the first.
        """
        for hidden in self.hidden.iterdir():
            target = self.folder / hidden.name
            target.mkdir(parents=True, exist_ok=True)
            for path in hidden.iterdir():
                row = int(path.stem) * self.world + self.rank
                if row < rows:
                    os.replace(path, target / f"{row}{path.suffix}")
                    (target / f"{row}{'.npy' if path.suffix == '.png' else '.png'}").unlink(missing_ok=True)
            for path in target.iterdir() if metadata is not None else ():
                if path.suffix in (".npy", ".png") and path.stem.isdecimal() and int(path.stem) >= rows:
                    path.unlink()
        if metadata is not None:
            (self.hidden / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
            os.replace(self.hidden / METADATA, self.folder / METADATA)
        self.discard()

    def discard(self) -> None:
        """Remove the hidden files."""
        shutil.rmtree(self.hidden, ignore_errors=True)


def is_of_maps(folder: Path) -> bool:
    """Whether a folder holds maps of an earlier run, or nothing."""
    try:
        return not any(folder.iterdir()) or "sigmas" in json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def split_maps(columns: Mapping[str, Tensor], all_maps: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the columns (B,) and (B, D) of a table, and those that are maps; of a task's maps the main one only."""
    table = {name: column for name, column in columns.items() if column.dim() < 3}
    maps = {name: c for name, c in columns.items() if c.dim() >= 3 and (all_maps or "." not in name)}
    return table, maps


def byte_sized(tasks: Mapping[str, Any]) -> set[str]:
    """Return the tasks whose classes fit a byte."""
    return {name for name, task in tasks.items() if task.output_size <= torch.iinfo(torch.uint8).max + 1}
