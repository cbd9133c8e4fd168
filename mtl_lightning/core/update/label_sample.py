"""A sample of the training labels, from which the trivial predictors of all tasks are fitted.

It is taken from the updates before the first validation, or of the first epoch if that ends earlier: no pass over the
data is needed, and any datamodule will do. Then the constants stay as they are, so that figures of one run compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.batches import targets_of, weight_of
from mtl_lightning.core.update.window import Window
from mtl_lightning.errors import MtlLightningWarning
from mtl_lightning.tasks.base import Task

ROWS = 16384
"""So many labelled rows of each task, or pixels, are kept: their best constant's loss is within 1e-4 of the best."""
_ENTRIES = 1 << 20  # of rows that are long
_FACTOR, _MODULUS = 2654435769, 1 << 32  # multiples of the golden ratio: the chosen rows are spread evenly


class Sample:
    """Some labelled rows of one task, spread evenly over all that were added.

    The rows of all processes are numbered as one process would number them, so that a number of processes chooses the
    rows that one does.

    Args:
        task: the task.

    Attributes:
        seen: the number of rows that were added on this process.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.seen = 0
        self._parts: list[tuple[Tensor, Tensor | None, int]] = []  # rows, weights, number of the first row
        self._waiting = 0
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None  # rows, weights, numbers

    def add(self, target: Tensor, weight: Tensor | None, rank: int, world: int) -> None:
        """Add the target of a batch, with sample weights (B,) if it has some. Little is done before many have come."""
        rows = self.task.picked(target)
        before = self._parts[0][0] if self._parts else rows if self._kept is None else self._kept[0]
        if rows.shape[1:] != before.shape[1:]:  # of a task of the user's own whose targets vary in size
            return
        if weight is not None and len(rows) != len(weight):
            weight = weight.repeat_interleave(len(rows) // len(weight))
        self._parts.append((rows, weight, self.seen))
        self.seen += len(rows)
        self._waiting += len(rows)
        if self._waiting >= _capacity(rows):
            self.fold(rank, world)

    def fold(self, rank: int, world: int) -> None:
        """Choose among what was added."""
        if not self._parts:
            return
        rows = torch.cat([part for part, _, _ in self._parts])
        weights = [torch.ones(len(r), device=r.device) if w is None else w for r, w, _ in self._parts]
        weight = torch.cat([one.float() for one in weights])
        numbers = torch.cat([torch.arange(first, first + len(part)) for part, _, first in self._parts])
        self._parts, self._waiting = [], 0
        self.merge(rows, weight, (numbers * world + rank).to(rows.device))

    def merge(self, rows: Tensor, weight: Tensor, numbers: Tensor) -> None:
        """Add rows (N, *), weights (N,) and numbers (N,), and choose."""
        if self._kept is not None:
            found = zip(self._kept, (rows, weight, numbers), strict=True)
            rows, weight, numbers = (torch.cat([kept, new.to(kept.device)]) for kept, new in found)
        size = _capacity(rows)
        if len(rows) > size:
            key = (numbers * _FACTOR) % _MODULUS
            chosen = torch.where(self.task.has_label(rows) & (weight > 0), key, -1).topk(size).indices
            rows, weight, numbers = rows[chosen], weight[chosen], numbers[chosen]
        self._kept = rows, weight, numbers

    def labelled(self) -> tuple[Tensor, Tensor]:
        """Return the labelled rows (N, *) and their weights (N,), in the order of their numbers."""
        if self._kept is None:
            return torch.zeros(0), torch.zeros(0)
        rows, weight, numbers = self._kept
        order = numbers.argsort()
        order = order[(self.task.has_label(rows) & (weight > 0))[order]]
        return rows[order], weight[order]

    def state_dict(self, rank: int, world: int) -> dict[str, Any]:
        """Return plain data and tensors, on the CPU."""
        self.fold(rank, world)
        names = ("rows", "weight", "numbers")
        kept = {} if self._kept is None else {n: t.cpu() for n, t in zip(names, self._kept, strict=True)}
        return {"seen": self.seen, **kept}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.seen = state["seen"]
        if "rows" in state:
            self._kept = state["rows"].to(device), state["weight"].to(device), state["numbers"].to(device)


class LabelSample:
    """The samples of all tasks; they are let go of once the network's ``trivial_predictions`` are fitted.

    Args:
        network: whose tasks they are of, and which gets the predictions.
        runtime: where it runs.
    """

    def __init__(self, network: Network, runtime: Runtime) -> None:
        self.network, self.runtime = network, runtime
        self.samples: dict[str, Sample] = {}

    def add(self, window: Window) -> None:
        """Add the labels of an update."""
        if self.network.trivial_predictions is not None:
            return
        rank, world = self.runtime.rank, self.runtime.world_size
        for batch in window.batches:
            for name, target in targets_of(batch).items():
                if name not in self.samples:
                    self.samples[name] = Sample(self.network.tasks[name])
                self.samples[name].add(target, weight_of(batch, name), rank, world)

    @torch.no_grad()
    def fit(self) -> None:
        """Fit the trivial predictions, if there are none yet, to the labels of all processes, which all call this."""
        runtime = self.runtime
        if self.network.trivial_predictions is not None:
            return
        with torch.inference_mode(False), runtime.full_precision():
            predictions = self._fitted(self._of_all_processes())
        if runtime.world_size > 1:
            predictions = runtime.trainer.strategy.broadcast(predictions)
        self.network.trivial_predictions = predictions
        if predictions is not None:
            self.samples = {}

    def _of_all_processes(self) -> dict[str, Sample]:
        """Return the samples of all processes together, on the first of them."""
        rank, world = self.runtime.rank, self.runtime.world_size
        for sample in self.samples.values():
            sample.fold(rank, world)
        if world == 1 or not dist.is_initialized():
            return self.samples
        states: list[Any] | None = [None] * world if rank == 0 else None
        dist.gather_object(self.state_dict(), states)
        merged: dict[str, Sample] = {}
        for state in states or ():
            for name, one in state.items():
                merged.setdefault(name, Sample(self.network.tasks[name]))
                if "rows" in one:
                    device = self.runtime.device
                    merged[name].merge(*(one[key].to(device) for key in ("rows", "weight", "numbers")))
        return merged

    def _fitted(self, samples: Mapping[str, Sample]) -> dict[str, Tensor] | None:
        """Return the predictions of tasks with labels; None if there is no label, and on all but the first process."""
        labelled = {name: sample.labelled() for name, sample in samples.items()}
        if not any(len(rows) for rows, _ in labelled.values()):
            return None
        found = {name: _prediction(name, self.network.tasks[name], *one) for name, one in labelled.items()}
        return {name: prediction for name, prediction in found.items() if prediction is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors, by task."""
        rank, world = self.runtime.rank, self.runtime.world_size
        return {name: sample.state_dict(rank, world) for name, sample in self.samples.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.samples = {}
        for name, one in state.items():
            self.samples[name] = Sample(self.network.tasks[name])
            self.samples[name].load_state_dict(one, self.runtime.device)


def _capacity(rows: Tensor) -> int:
    """Return how many such rows (N, *) a sample keeps."""
    return max(1, min(ROWS, _ENTRIES // max(1, rows[:1].numel())))


def _prediction(name: str, task: Task, rows: Tensor, weight: Tensor) -> Tensor | None:
    """Return a task's trivial prediction, on the CPU; None where there is no label, or none can be found."""
    if not len(rows):
        return None
    try:
        found = task.trivial_prediction(rows, weight)
        if not bool(task.trivial_output(found).isfinite().all()):
            raise ValueError(f"found {found.tolist()!r:.100}")
    except Exception as error:  # of a task, or a loss, of the user's own
        reason = (str(error).splitlines() or [""])[0]
        rank_zero_warn(
            f"Task {name!r}: `loss_normalised` compares it with outputs of 0, since no better constant was found for "
            f"it: {type(error).__name__}: {reason:.200}. Write its method `trivial_prediction`.",
            category=MtlLightningWarning,
        )
        return None
    return found.detach().double().cpu()
