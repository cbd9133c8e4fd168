"""What the figures of a validation have in common: a small sample of labelled rows, drawn when the validation ends."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.nn import functional as F

from mtl_lightning.callbacks.diagnosis import multi_task
from mtl_lightning.core.network.network import at_least_float32
from mtl_lightning.core.spectators import Spectator
from mtl_lightning.core.update.batches import targets_of, weight_of
from mtl_lightning.core.update.figures import takes_pictures
from mtl_lightning.ranges import Ranged
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch

_LOOKS = 16  # batches of a split that rows are taken from, at least
_UNKNOWN = 32  # rows of each batch where nobody knows how many batches there will be


class Rows(NamedTuple):
    """Some rows of a batch, each with a label of the task."""

    inputs: Any
    prediction: Tensor | Mapping[str, Tensor]
    """What :meth:`~mtl_lightning.tasks.Task.predict` gives: values in original units, or probabilities and a label."""
    target: Tensor
    labelled: Tensor
    """A bool mask over the target's elements, as of :meth:`~mtl_lightning.tasks.Task.labelled`."""


class ValidationFigures(Ranged, Spectator):
    """Draws each task whose predictions have the right form, from rows spread evenly over the validation split.

    Predictions are those that the validation computes in any case. Nothing is sampled where no logger shows such
    figures. With several processes the rows are those of the first, which are every n-th of the split. Sample weights
    do not count, but rows of weight 0 are left out.

    Args:
        rows: about so many are drawn.
        every_n_validations: draws in every validation whose number this divides; 0 switches the callback off.
    """

    def __init__(self, rows: int = 2000, every_n_validations: int = 1) -> None:
        self.rows, self.every_n_validations = rows, every_n_validations
        self._forget()

    def _forget(self) -> None:
        self._validations = 0
        self._batches = 0.0  # of the validation under way, if it is drawn
        self._seen: dict[str, int] = {}
        self._kept: dict[str, list[tuple[Tensor, ...]]] = {}
        self._sizes: dict[str, int] = {}
        self._unfit: set[str] = set()

    # ------------------------------------------------------------------------------------------ what a subclass gives
    @abstractmethod
    def take(self, task: Task, rows: Rows) -> tuple[Tensor, ...] | None:
        """Return what is needed of some rows, tensors (N, *) that can be put together; None of unfit predictions."""

    @abstractmethod
    def draw(self, loggers: list[Logger], name: str, task: Task, kept: tuple[Tensor, ...], step: int) -> None:
        """Write the figure of a task from what was taken of all rows, on the CPU."""

    def serves(self, logger: Logger) -> bool:
        """Whether a logger can show the figure."""
        return takes_pictures(logger)

    # ---------------------------------------------------------------------------------------------------- the sample
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget an earlier run."""
        multi_task(pl_module, self)
        self._forget()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out whether this validation is drawn."""
        self._kept, self._sizes, self._seen, self._batches = {}, {}, {}, 0.0
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._validations += 1
        served = any(self.serves(logger) for logger in trainer.loggers)
        if served and self.every_n_validations and self._validations % self.every_n_validations == 0:
            self._batches = float(sum(trainer.num_val_batches))

    def see(
        self, module: LightningModule, stage: str, batch: Batch, outputs: Mapping[str, Tensor], dataloader_idx: int
    ) -> None:
        """Take some rows of each task, of some of the batches."""
        if stage != "val" or not self._batches:
            return
        tasks = multi_task(module, self).tasks
        for name, target in targets_of(batch).items():
            if name in self._unfit or self._sizes.get(name, 0) >= self.rows:
                continue
            seen = self._seen[name] = self._seen.get(name, -1) + 1
            every, most = self._pace(len(target))
            if seen % every == 0:
                weight = weight_of(batch, name)
                found = _some(tasks[name], batch["inputs"], outputs[name], target, weight, most)
                taken = self.take(tasks[name], found) if len(found.target) else ()
                if taken is None:
                    self._unfit.add(name)
                elif taken:
                    self._kept.setdefault(name, []).append(taken)
                    self._sizes[name] = self._sizes.get(name, 0) + len(found.target)

    def _pace(self, size: int) -> tuple[int, int]:
        """Return which of the batches, of so many rows, are looked at: one of how many; and how many rows are taken."""
        if self._batches == float("inf"):
            return 1, _UNKNOWN
        looks = min(self._batches, max(_LOOKS, -(-self.rows // max(size, 1))))
        every = int(self._batches // looks)
        return every, -(-self.rows * every // int(self._batches))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was taken."""
        module, kept = multi_task(pl_module, self), self._kept
        self._kept, self._batches = {}, 0.0
        loggers = [logger for logger in trainer.loggers if self.serves(logger)]
        for name, parts in kept.items():
            whole = tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True))
            self.draw(loggers, name, module.tasks[name], whole, max(trainer.global_step - 1, 0))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the sample."""
        self._kept = {}


def _some(task: Task, inputs: Any, output: Tensor, target: Tensor, weight: Tensor | None, most: int) -> Rows:
    """Return evenly spread rows that have a label."""
    labelled = task.labelled(target)
    has = labelled if labelled.dim() == 1 else labelled.flatten(1).any(1)
    places = (has if weight is None else has & (weight > 0)).nonzero()[:, 0]
    if len(places) > most:
        places = places[torch.arange(most, device=places.device) * len(places) // most]
    if not len(places):
        return Rows(None, output[:0], target[:0], labelled[:0])
    prediction = task.predict(at_least_float32(output[places]))
    return Rows(_picked(inputs, places, len(target)), prediction, task.as_shown(target)[places], labelled[places])


def names_of(task: Task, number: int) -> list[str]:
    """Return the names of a task's classes, labels or outputs, or their numbers."""
    names = task.spec.names if len(task.spec.names) == number else range(number)
    return [str(name).replace("/", "_") for name in names]


def classes_of(rows: Rows) -> tuple[Tensor, Tensor] | None:
    """Return probabilities and labels of a prediction that has both; None of any other."""
    found = rows.prediction
    if not isinstance(found, Mapping) or not {"probability", "label"} <= found.keys():
        return None
    return found["probability"], found["label"]


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (N, H, W) or (N, C, H, W) in another size, by the nearest pixel."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    dtype = torch.float64 if maps.dtype in (torch.int64, torch.float64) else torch.float32
    shaped = maps if maps.dim() == 4 else maps[:, None]
    found = F.interpolate(shaped.to(dtype), size=size, mode="nearest").to(maps.dtype)
    return found if maps.dim() == 4 else found[:, 0]


def like(prediction: Tensor, target: Tensor) -> Tensor:
    """Return predictions; maps of them in the size of the target's."""
    if prediction.dim() < 3 or target.dim() < 3:
        return prediction
    return resized(prediction, (target.shape[-2], target.shape[-1]))


def _picked(inputs: Any, places: Tensor, rows: int) -> Any:
    """Return some rows of inputs that are a tensor, or of the first such in a dict; else None."""
    if isinstance(inputs, Mapping):
        tensors = [one for one in inputs.values() if isinstance(one, Tensor) and one.dim() >= 3]
        inputs = tensors[0] if tensors else None
    return inputs[places] if isinstance(inputs, Tensor) and len(inputs) == rows else None
