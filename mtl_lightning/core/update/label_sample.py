"""A sample of the training labels, from which the trivial predictors of all tasks are fitted.

It is taken from the updates before the first validation, or of the first epoch if that ends earlier: no pass over the
data is needed, and any datamodule will do. Then the constants stay as they are, so that figures of one run compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
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
from mtl_lightning.plain import other_kind
from mtl_lightning.tasks.base import Task
from mtl_lightning.types import Batch, TargetError

ROWS = 16384
"""So many labelled rows of each task, or pixels, are kept, if there are as many: the constant that is fitted to them
has a loss within 1e-4 of the least.
"""
_ENTRIES = 1 << 20  # numbers of one task that are kept, labelled or not, before every second row is left out
_BATCHES, _LARGE = 64, 1 << 17  # small batches are put together at once, so that a step does next to nothing


class Sample:
    """Rows of one task: all, then one of every two, of every four, and so on, from the whole of what was added.

    Args:
        task: the task.
        world: the number of processes, each of which has its own rows.

    Attributes:
        every: of how many rows one is kept.
    """

    def __init__(self, task: Task, world: int = 1) -> None:
        self.task, self.world = task, world
        self.every = 1
        self._seen = 0  # rows that were chosen among
        self._labels = 0.0  # about as many are in the rows that are kept, of all processes
        self._kept: tuple[Tensor, Tensor | None] | None = None  # rows (N, *), and weights (N,)
        self._added: list[tuple[Tensor, Tensor | None, float]] = []  # targets, weights, numbers of labels since then
        self._entries = 0

    def add(self, target: Tensor, weight: Tensor | None, labels: float) -> None:
        """Add the target of a batch; no host sync.

        Args:
            target: (B, *), as in a batch.
            weight: sample weights (B,), if it has some.
            labels: the number of labels in it, about, over all processes; rows count for one at most.
        """
        self._added.append((target, weight, labels))
        self._entries += target.numel()
        if len(self._added) >= _BATCHES or self._entries >= _LARGE:
            self.fold()

    def fold(self) -> None:
        """Choose among the rows that were added, and among all if there are too many."""
        shapes = {target.shape[1:] for target, _, _ in self._added}  # of pictures of several sizes
        for shape in shapes:
            parts = [part for part in self._added if part[0].shape[1:] == shape]
            target = parts[0][0] if len(parts) == 1 else torch.cat([target for target, _, _ in parts])
            weights = [(target, weight) for target, weight, _ in parts]
            weight = None if all(one is None for _, one in weights) else torch.cat([_weight(*one) for one in weights])
            self._keep(target, weight, sum(labels for _, _, labels in parts))
        self._added, self._entries = [], 0

    def _keep(self, target: Tensor, weight: Tensor | None, labels: float) -> None:
        rows = self.task.picked(target)
        if weight is not None:
            weight = weight.repeat_interleave(len(rows) // len(weight))
        self._labels += min(labels, len(rows) * self.world) / self.every
        first, self._seen = self._seen, self._seen + len(rows)
        rows, weight = _thinned(rows, weight, first, self.every)
        if self._kept is not None:
            before, sizes = self._kept
            if before.shape[1:] != rows.shape[1:]:  # a task of the user's own whose targets vary in size
                return
            if weight is not None or sizes is not None:
                weight = torch.cat([_weight(before, sizes), _weight(rows, weight)])
            rows = torch.cat([before, rows])
        while len(rows) > 1 and (self._labels >= 2 * ROWS or rows.numel() >= 2 * _ENTRIES):
            rows, weight = _thinned(rows, weight, 0, 2)
            self.every, self._labels = 2 * self.every, self._labels / 2
        self._kept = rows, weight

    def labelled(self) -> tuple[Tensor, Tensor]:
        """Return the labelled rows (N, *), and how much each counts (N,); both empty without any."""
        self.fold()
        if self._kept is None:
            return torch.zeros(0), torch.zeros(0)
        rows, sizes = self._kept[0], _weight(*self._kept)
        chosen = self.task.has_label(rows) & (sizes > 0)
        return rows[chosen], self.every * sizes[chosen]

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors, on the CPU; nothing changes, so that a run goes on as without the call."""
        kept = None if self._kept is None else [_on(torch.device("cpu"), part) for part in self._kept]
        added = [[target.cpu(), _on(torch.device("cpu"), weight), labels] for target, weight, labels in self._added]
        return {"every": self.every, "seen": self._seen, "labels": self._labels, "kept": kept, "added": added}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what :meth:`state_dict` returned.

        Raises:
            TargetError: for what is no sample of this task.
        """
        self._check(state)
        self.every, self._seen, self._labels = state["every"], state["seen"], state["labels"]
        kept = state["kept"]
        self._kept = None if kept is None else (kept[0].to(device), _on(device, kept[1]))
        self._added = [(target.to(device), _on(device, weight), labels) for target, weight, labels in state["added"]]
        self._entries = sum(target.numel() for target, _, _ in self._added)

    def _check(self, state: Mapping[str, Any]) -> None:
        wrong = other_kind(
            {key: state[key] for key in ("every", "seen")}, {"every": 1, "seen": 0}, "sample", whole=True
        )
        wrong = wrong or other_kind(state, self.state_dict(), "sample")
        rows = [*([] if state["kept"] is None else [state["kept"]]), *state["added"]]
        if wrong or state["every"] < 1 or not all(isinstance(part, list | tuple) for part in rows):
            raise TargetError(f"Expected a sample of labels, found {wrong or state['every']}.")
        sizes = [*([] if state["kept"] is None else [2]), *(3 for _ in state["added"])]
        whole = [len(part) for part in rows] == sizes and all(isinstance(part[1], Tensor | None) for part in rows)
        if not whole or not all(isinstance(part[2], int | float) for part in state["added"]):
            raise TargetError("Expected a sample of labels with their weights and numbers, found something else.")
        for target, *_ in rows:
            self.task.check(target)


class LabelSample:
    """The samples of all tasks; they are let go of once the network's ``trivial_predictions`` are fitted.

    Args:
        network: whose tasks they are of, and which gets the predictions.
        runtime: where it runs.
    """

    def __init__(self, network: Network, runtime: Runtime) -> None:
        self.network, self.runtime = network, runtime
        self._samples: dict[str, Sample] = {}
        self._waiting: list[tuple[dict[str, tuple[Tensor, Tensor | None]], Mapping[str, float], int]] = []
        self._entries = 0

    @property
    def samples(self) -> dict[str, Sample]:
        """The tasks' samples, of all updates so far."""
        waiting, self._waiting, self._entries = self._waiting, [], 0
        for targets, counts, parts in waiting:
            for name, (target, weight) in targets.items():
                self._sample(name).add(target, weight, counts[name] / parts)
        return self._samples

    def _sample(self, name: str) -> Sample:
        if name not in self._samples:
            self._samples[name] = Sample(self.network.tasks[name], self.runtime.world_size)
        return self._samples[name]

    def add(self, window: Window) -> None:
        """Add the labels of an update; the tasks' samples get those of many updates at once."""
        if self.network.trivial_predictions is None:
            parts = len(window.batches)
            for batch in window.batches:
                targets = {name: (target, weight_of(batch, name)) for name, target in targets_of(batch).items()}
                self._waiting.append((targets, window.counts, parts))
                self._entries += sum([target.numel() for target, _ in targets.values()])
            if len(self._waiting) >= _BATCHES or self._entries >= _LARGE:
                _ = self.samples

    @torch.no_grad()
    def fit(self, started: Sequence[Batch] = ()) -> None:
        """Fit the trivial predictions, if there are none yet, to the labels of all processes, which all call this.

        Args:
            started: the batches of a started window, to use if there was no update yet.
        """
        runtime = self.runtime
        if self.network.trivial_predictions is not None:
            return
        if not self.samples:
            for batch in started:
                for name, target in targets_of(batch).items():
                    self._sample(name).add(target, weight_of(batch, name), 0.0)
        with torch.inference_mode(False), runtime.full_precision():
            predictions = self._fitted(self._of_all_processes())
        if runtime.world_size > 1:
            predictions = runtime.trainer.strategy.broadcast(predictions)
        self.network.trivial_predictions = predictions
        if predictions is not None:
            self._samples = {}

    def _of_all_processes(self) -> dict[str, list[Sample]]:
        """Return the samples of each process, by task, on the first of them; on others nothing."""
        runtime = self.runtime
        if runtime.world_size == 1 or not dist.is_initialized():
            return {name: [sample] for name, sample in self.samples.items()}
        states: list[Any] | None = [None] * runtime.world_size if runtime.rank == 0 else None
        dist.gather_object(self.state_dict(), states)
        found: dict[str, list[Sample]] = {}
        for state in states or ():
            for name, one in state.items():
                sample = Sample(self.network.tasks[name])
                sample.load_state_dict(one, runtime.device)
                found.setdefault(name, []).append(sample)
        return found

    def _fitted(self, samples: Mapping[str, list[Sample]]) -> dict[str, Tensor] | None:
        """Return the predictions of tasks with labels; None if there is no label, and on all but the first process."""
        found: dict[str, Tensor | None] = {}
        for name, ones in samples.items():
            parts = [part for part in (one.labelled() for one in ones) if len(part[0])]
            if parts:
                alike = [part for part in parts if part[0].shape[1:] == parts[0][0].shape[1:]]
                rows, weight = (torch.cat(both) for both in zip(*alike, strict=True))
                found[name] = _prediction(name, self.network.tasks[name], rows, weight)
        return {name: one for name, one in found.items() if one is not None} if found else None

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors, by task."""
        return {name: sample.state_dict() for name, sample in self.samples.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._samples, self._waiting, self._entries = {}, [], 0
        for name, one in state.items():
            self._sample(name).load_state_dict(one, self.runtime.device)


def _thinned(rows: Tensor, weight: Tensor | None, first: int, every: int) -> tuple[Tensor, Tensor | None]:
    """Return one row in each run of ``every``, as if by chance, so that no order of the rows matters.

    Args:
        rows: (N, *).
        weight: (N,), if they have some.
        first: the number of rows before these; runs are counted from the first of all.
        every: their length.
    """
    if every == 1:
        return rows, weight
    chosen = _places(first, len(rows), every).to(rows.device)
    return rows[chosen], None if weight is None else weight[chosen]


@lru_cache(maxsize=2)
def _places(first: int, number: int, every: int) -> Tensor:
    """Return which rows of ``number`` are chosen; kept, as it is the same for all tasks of a batch."""
    runs = torch.arange(first // every, (first + number - 1) // every + 1)
    mixed = (runs + every) * 0x9E3779B1 & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x85EBCA6B & 0xFFFFFFFF  # each bit of the sum moves every other
    places = runs * every + (mixed ^ mixed >> 13) % every - first
    return places[(places >= 0) & (places < number)]


def _on(device: torch.device, part: Tensor | None) -> Tensor | None:
    return None if part is None else part.to(device)


def _weight(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Return the weights (N,) of rows (N, *), 1 each if they have none."""
    return torch.ones(len(rows), device=rows.device, dtype=torch.float32) if weight is None else weight.float()


def _prediction(name: str, task: Task, rows: Tensor, weight: Tensor) -> Tensor | None:
    """Return a task's trivial prediction, on the CPU; None where none can be found."""
    try:
        found = task.trivial_prediction(rows, weight)
        if found.shape != (task.output_size,) or not bool(task.trivial_output(found).isfinite().all()):
            raise ValueError(f"expected {task.output_size} finite numbers, found {found.tolist()!r:.100}")
    except Exception as error:  # of a task, or a loss, of the user's own
        reason = (str(error).splitlines() or [""])[0]
        rank_zero_warn(
            f"Task {name!r}: `loss_normalised` compares it with outputs of 0, since no better constant was found for "
            f"it: {type(error).__name__}: {reason:.200}. Write its method `trivial_prediction`.",
            category=MtlLightningWarning,
        )
        return None
    return found.detach().double().cpu()
