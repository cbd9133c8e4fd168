"""Predictions as they are made: in one Parquet file, a column per task, and a file per row for dense tasks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info

from mtl_lightning.callbacks.answered import Answers, finish
from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.callbacks.maps import MapFormat, MapPart, byte_sized, is_of_maps, split_maps
from mtl_lightning.callbacks.parquet import (
    Part,
    beside,
    check_shares,
    columns_of,
    id_columns,
    is_ours,
    merge,
    record_batch,
    rows_of,
)
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.types import ConfigurationError


class PredictionWriter(BasePredictionWriter):
    """Writes what ``trainer.predict`` gives to one Parquet file: a row per row of the data, in the loader's order.

    Maps, the predictions (B, H, W) and (B, C, H, W) of dense tasks, are written beside it instead, a file per row, in a
    folder with the Parquet file's name but for its suffix: ``predictions/<task>/<row>.npy``, arrays (H, W) or
    (C, H, W), class maps as uint8. The row is its number in the data, from 0. Tables and maps may come together;
    without any prediction for the table there is no Parquet file.

    What travels along with the rows of a batch, its ``ids``, is in columns before those of the tasks: ``ids``, or those
    that a dict of them names.

    Columns, for the tasks ``left`` (one of 10 classes) and ``size`` (a number), and with ``keep: [user]``::

        user              string
        left              string
        left.probability  fixed_size_list<float>[10]
        size              float
        size.low          float
        size.high         float

    Classes are named as the table has them, or as the data's ``TargetSpec`` does; where neither knows names, and with
    ``codes``, they are int64. ``low`` and ``high`` are there for numbers whose intervals have been calibrated. A
    prediction (B,) is a column with the task's name, (B, D) one of lists of the fixed size D. Where a task predicts
    several things, its ``"label"`` or ``"value"`` (or the first of them) is the column ``<task>`` and the others are
    ``<task>.<key>``. The schema's metadata has, under the key ``b"mtl_lightning"``, JSON with ``units``, ``names`` (of
    classes, labels or outputs), ``sigmas`` (the learned noise scales, in the units of the targets) and, if there are
    any, ``fields`` (names likewise, by key, of what a task predicts in several columns), each by task,
    and of a table ``unlike_training``: what of its rows training never saw, by column with counts, as it is told in
    the terminal; of a streamed table that several processes read, of the rows that the first one read::

        table = pyarrow.parquet.read_table("predictions.parquet")
        sigmas = json.loads(table.schema.metadata[b"mtl_lightning"])["sigmas"]

    Rows are written while they come, and memory stays bounded if the trainer is told not to keep them too:
    ``trainer.predict(..., return_predictions=False)``. The file appears under its name when it is complete; one that
    was there before is replaced then if it holds predictions, and refused if it holds anything else. After a failure
    there is none. Maps, too, get their names when all are there, one after the other; those of an earlier run are
    replaced, or removed where there is no such row any more. What the Parquet file has as metadata is in
    ``predictions/metadata.json`` for them.

    Several predict dataloaders give a file each, with ``_0``, ``_1``, ..., or their names in a dict, before the
    suffix. Several processes write a part each, which the first one puts together at the end, without the rows that a
    sampler made up to share them out evenly; all must see the same directory.

    Args:
        path: of the file; by default ``predictions.parquet`` in the logger's directory of the run, or in the trainer's
            ``default_root_dir`` without a logger.
        maps: the form of class maps: ``npy``, or ``png``, pictures of 8 bits whose grey is the class. Other maps, and
            classes beyond 255, are always ``npy``.
        all_maps: write all maps of a task, such as the probabilities (K, H, W) in ``<task>.probability``; by default
            the main one only, the class or the value.
        keep: columns of the rows to carry along, such as ``[user_id]``, of a :class:`~mtl_lightning.data.TableData`;
            from text files as texts, as they stand there. They are read once more, when all is predicted.
        codes: write classes by their numbers, from 0, instead of by their names.

    Attributes:
        paths: the files, and the folders of maps, written by the last ``predict``.

    Raises:
        ConfigurationError: for rows that several processes do not share out in turn, and at ``setup`` for a module
            that is no ``MultiTaskModule``.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        maps: MapFormat = "npy",
        all_maps: bool = False,
        keep: list[str] | None = None,
        codes: bool = False,
    ) -> None:
        super().__init__("batch")
        if maps not in ("npy", "png"):
            raise ConfigurationError(f"PredictionWriter: expected `maps` to be 'npy' or 'png', found {maps!r}.")
        self.path = None if path is None else Path(path)
        self.maps: MapFormat = maps
        self.all_maps = all_maps
        self.keep, self.codes = list(keep or []), codes
        self._answers = Answers()
        self._predicted: Any = None  # the rows of a table that are predicted
        self._told: dict[str, Any] | None = None  # what was known of them at the start
        self.paths: list[Path] = []
        self._targets: list[Path] = []  # one per dataloader
        self._lengths: list[int] = []  # rows of their datasets; of interest to several processes only
        self._parts: dict[int, Part] = {}  # by dataloader, of this process
        self._map_parts: dict[int, MapPart] = {}  # likewise
        self._rows: list[int] = []  # written by this process, by dataloader

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules."""
        super().setup(trainer, pl_module, stage)
        multi_task(pl_module, self)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide on the files."""
        directory = trainer.log_dir or trainer.default_root_dir  # asks all processes, so it comes first
        path = self.path or Path(directory) / "predictions.parquet"
        if path.is_dir():
            raise ConfigurationError(f"PredictionWriter: expected the path of a file, found the directory {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        loaders = CombinedLoader(trainer.predict_dataloaders, "sequential").flattened
        self._targets = [path.with_stem(path.stem + end) for end in _endings(trainer.predict_dataloaders, len(loaders))]
        for target in self._targets:
            _refuse_others(target, is_ours)
        self._lengths = [_rows_of(loader) for loader in loaders] if trainer.world_size > 1 else []
        self._parts, self._map_parts, self.paths = {}, {}, []
        self._rows = [0] * len(self._targets)
        self._look_at(multi_task(pl_module, self), getattr(trainer, "datamodule", None))

    def _look_at(self, module: MultiTaskModule, data: Any) -> None:
        """See what the tasks' classes are called, and which columns the rows have."""
        schema = module.trained_on or getattr(data, "schema", None)
        self._answers = Answers.of(module.tasks, schema, module.calibration, self.codes)
        self._predicted = getattr(data, "predicted", None)
        if self.keep and (self._predicted is None or len(self._targets) != 1):
            raise ConfigurationError(
                f"PredictionWriter: expected a TableData, whose rows have columns to `keep`, found "
                f"{'no datamodule' if data is None else type(data).__name__}. Leave out `keep`."
            )
        if taken := [name for name in self.keep if name in module.tasks]:
            raise ConfigurationError(
                f"PredictionWriter: expected in `keep` columns that are not called as a task, found {taken}, whose "
                "column holds what is predicted. Leave them out."
            )
        if self._predicted is not None:
            self._predicted.check(self.keep, "keep")
        self._told = self._report()

    def _report(self) -> dict[str, Any] | None:
        """Return what of the rows that were read up to now is unlike training; None where it is not known."""
        found: dict[str, Any] | None = None
        if self._predicted is not None and len(self._targets) == 1:
            found = self._predicted.report()
        return found

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Add the predictions of a batch."""
        if not isinstance(prediction, Mapping) or not prediction:
            raise ConfigurationError(
                "PredictionWriter: expected `predict_step` to return {task: tensor} or {task: {key: tensor}}, found "
                f"{type(prediction).__name__}. Leave the callback out to write something else."
            )
        module, target = multi_task(pl_module, self), self._targets[dataloader_idx]
        predicted = dict(prediction)
        carried = {} if "ids" in module.tasks else id_columns(predicted.pop("ids", {}))
        ids = {name: column for name, column in carried.items() if name not in self.keep}
        columns = columns_of(predicted)
        rows = rows_of(columns)
        self._rows[dataloader_idx] += rows
        table, maps = split_maps(columns, self.all_maps)
        if table or ids:
            if dataloader_idx not in self._parts:
                self._parts[dataloader_idx] = Part(_part_of(target, trainer.global_rank), _metadata(module, self._told))
            found = self._answers.of_batch(record_batch(table)) if table else None
            self._parts[dataloader_idx].write(beside(ids, found, rows))
        if maps:
            if dataloader_idx not in self._map_parts:
                _refuse_others(_folder_of(target), is_of_maps)
                place, small = (trainer.global_rank, trainer.world_size), byte_sized(module.tasks)
                self._map_parts[dataloader_idx] = MapPart(_folder_of(target), *place, self.maps, small)
            self._map_parts[dataloader_idx].write(maps)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complete the files and give them their names."""
        module = multi_task(pl_module, self)
        for index, target in enumerate(self._targets):
            part, maps = self._parts.get(index), self._map_parts.get(index)
            if part is not None:
                part.close()
            shares = _shares(module, self._rows[index])  # all parts are closed, when this is known
            if trainer.world_size > 1 and any(shares):
                check_shares(shares, self._lengths[index])
            if trainer.is_global_zero and part is not None:
                self._complete(index, target, shares, module)
            if maps is not None:
                rows = self._lengths[index] if trainer.world_size > 1 else self._rows[index]
                maps.complete(rows, _metadata(module, self._told) if trainer.is_global_zero else None)
            made = [target] * (part is not None) + [_folder_of(target)] * (maps is not None)
            trainer.strategy.barrier("PredictionWriter")
            made = trainer.strategy.broadcast(made)  # the first process has rows if any has
            self.paths += made
            for path in made:
                rank_zero_info(f"Predictions are in {path}.")
        self._parts, self._map_parts = {}, {}

    def _complete(self, index: int, target: Path, shares: Sequence[int], module: MultiTaskModule) -> None:
        """Put the parts of all processes together, and what is known of their rows, under the target's name."""
        made = self._merged(index, target, shares)
        report = self._report()
        if not (self.keep or (self._predicted is not None and self._answers.by) or report != self._told):
            os.replace(made, target)
            return
        finished = target.with_name(f".{target.name}.finished")
        by = [name for name in self._answers.by if name in self._predicted.names]
        try:
            metadata = _metadata(module, report)
            rows = self._predicted.tables([*dict.fromkeys([*self.keep, *by])])
            finish(made, finished, metadata, self._answers, rows, self.keep)
            os.replace(finished, target)
        finally:
            for leftover in (made, finished):
                leftover.unlink(missing_ok=True)

    def _merged(self, index: int, target: Path, shares: Sequence[int]) -> Path:
        """Put the parts of all processes together; return the file, which has not yet its name."""
        parts = [_part_of(target, rank) if rows else None for rank, rows in enumerate(shares)]
        if len(parts) == 1:
            return _part_of(target, 0)
        if lost := [str(part) for part in parts if part is not None and not part.exists()]:
            raise ConfigurationError(
                f"PredictionWriter: expected the parts of all processes, did not find {lost}. Choose a `path` in a "
                "directory that all of them see."
            )
        merged = target.with_name(f".{target.name}.merged")
        try:
            merge(parts, merged, self._lengths[index])
        except BaseException:
            merged.unlink(missing_ok=True)
            raise
        finally:
            for leftover in parts:
                if leftover is not None:
                    leftover.unlink(missing_ok=True)
        return merged

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing unfinished behind."""
        for part in self._parts.values():
            part.discard()
        for maps in self._map_parts.values():
            maps.discard()
        self._parts, self._map_parts = {}, {}


def _refuse_others(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Refuse to replace what no prediction has written."""
    if path.exists() and not is_ours(path):
        raise ConfigurationError(
            f"PredictionWriter: expected to write predictions to {path}, found something else there, which stays as it "
            "is. Choose another `path`, or move it away."
        )


def _endings(loaders: Any, number: int) -> list[str]:
    """Return what tells the files of several dataloaders apart."""
    if number == 1:
        return [""]
    named = isinstance(loaders, Mapping) and len(loaders) == number
    return [f"_{name}".replace(os.sep, "-") for name in (loaders if named else range(number))]


def _rows_of(loader: Any) -> int:
    dataset = getattr(loader, "dataset", None)
    if not isinstance(dataset, Sized):
        raise ConfigurationError(
            "PredictionWriter: expected a dataset with a length, so that several processes can put its rows in order, "
            f"found {type(dataset).__name__}. Predict with one process."
        )
    return len(dataset)


def _part_of(target: Path, rank: int) -> Path:
    """Return where a process writes until the file is complete: hidden, in the same directory."""
    return target.with_name(f".{target.name}.part{rank}")


def _folder_of(target: Path) -> Path:
    """Return the folder for the maps beside a table."""
    return target.with_suffix("") if target.suffix else target.with_name(f"{target.name}.maps")


def _shares(module: MultiTaskModule, rows: int) -> list[int]:
    """Return the number of rows that each process has written."""
    mine = torch.zeros(module.runtime.world_size, dtype=torch.int64, device=module.device)
    mine[0 if module.runtime.world_size == 1 else module.global_rank] = rows
    shares: list[int] = module.runtime.all_sum(mine).tolist()
    return shares


def _metadata(module: MultiTaskModule, report: Mapping[str, Any] | None) -> dict[str, Any]:
    decodings = {name: task.decoding() for name, task in module.tasks.items()}
    fields = {name: known["fields"] for name, known in decodings.items() if known["form"] == "fields"}
    return {
        "units": {name: task.spec.units for name, task in module.tasks.items()},
        "names": {name: list(task.spec.names) for name, task in module.tasks.items()},
        "sigmas": module.sigmas(original_units=True),
        **({"fields": fields} if fields else {}),
        **({} if report is None else {"unlike_training": report}),
    }
