"""The sweeps themselves: the updates of a real fit, again and again from the same start on the same batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.update import Accumulation, Window
from mtl_lightning.core.update.window import Counts
from mtl_lightning.lr_find.judge import Judge, gains, trivial_losses
from mtl_lightning.lr_find.snapshot import Snapshot
from mtl_lightning.lr_find.suggestion import Suggestion, suggest
from mtl_lightning.names import known_name
from mtl_lightning.types import Batch, ConfigurationError

_DIVERGED = 10.0  # times the larger of the first loss and the reference's
_FOR_SCALES = 16  # windows that the trivial predictors' losses are taken from


@dataclass(frozen=True)
class Sweep:
    """The sweep of one group's rate.

    Attributes:
        group: its name.
        judged_by: what the values are.
        configured: the rate that the group has, and kept while others were swept.
        rates: (N,) that it was swept over, ascending.
        values: (M,) the judged loss at the end of updates at each of the first M rates, the last of them infinite if M
            is less than N: it diverged there.
        reference: the same of the same updates of all other groups, while this one was at rest.
        gains: (M,) how far the values are above the reference, below 0 where the group helps: logarithms of ratios, or
            differences where losses may be negative.
        suggestion: a rate, or why there is none.
    """

    group: str
    judged_by: str
    configured: float
    rates: tuple[float, ...]
    values: tuple[float, ...]
    reference: float
    gains: tuple[float, ...]
    suggestion: Suggestion


class RecordedWindows(Accumulation):
    """Keeps complete windows on the CPU instead of having updates made of them.

    Args:
        module: whose windows they are; tasks are told which of them were labelled.
        wanted: how many.
    """

    process_only: ClassVar[tuple[str, ...]] = ()

    def __init__(self, module: MultiTaskModule, wanted: int) -> None:
        super().__init__(module.runtime, module)
        self._module, self.wanted = module, wanted
        self.windows: list[list[Batch]] = []

    def add(self, batches: list[Batch], complete: bool, counts: Counts | None = None) -> None:
        """Add micro-batches; no window is ever complete for an update."""
        whole = super().add(batches, complete, counts)
        if whole is None or len(self.windows) >= self.wanted:
            return
        found, known = whole
        window = Window.counted(found, self._module.tasks, self._module.runtime, known)
        if window.names:
            self._module.labels.labelled.update(window.names)
            self._module.updates.label_sample.add(window)
            self.windows.append(cast("list[Batch]", move_data_to_device(found, torch.device("cpu"))))

    def window(self, index: int) -> Window:
        """Return one of them on the module's device."""
        runtime = self._module.runtime
        return Window.counted(move_data_to_device(self.windows[index], runtime.device), self._module.tasks, runtime)


class RateSweeps(Callback):
    """Takes over a fit at its first batches: records windows, sweeps, and ends it.

    Args:
        rates: (N,) to sweep over.
        updates: at each of them.
        groups: names of those to sweep; all that are trained by default.
        hold: the other groups at the rates ``found`` before, if any were, or at those ``configured``.
        say: is told of each sweep as it begins.
    """

    def __init__(
        self,
        rates: Sequence[float],
        updates: int,
        groups: Sequence[str] | None,
        hold: str,
        say: Callable[[str], None],
    ) -> None:
        self.rates, self.updates, self.groups, self.hold, self.say = tuple(rates), updates, groups, hold, say
        self.sweeps: list[Sweep] = []
        self._record: RecordedWindows | None = None
        self._before = 0  # windows, at the epoch's start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse groups that there are not, before the first batch."""
        for name in self.groups or ():
            known_name(name, cast("MultiTaskModule", pl_module).groups, "lr_find.groups")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to record, once everything is set up and an interrupted run is restored."""
        module = cast("MultiTaskModule", pl_module)
        if self._record is None:
            self._record = module.accumulation = RecordedWindows(module, self.updates + 1)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what was recorded before this epoch."""
        self._before = 0 if self._record is None else len(self._record.windows)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to wait for ever."""
        if self._record is None or len(self._record.windows) == self._before:
            raise ConfigurationError(
                "lr-find: expected an update's labels in an epoch of the training data, found none. Look at "
                "`limit_train_batches`, and at the data's targets."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """When there are windows enough, sweep."""
        record = self._record
        if record is None or len(record.windows) < record.wanted or self.sweeps:
            return
        module = cast("MultiTaskModule", pl_module)
        module.updates.label_sample.fit()
        module.updates.on_nonfinite = "skip"  # a sweep is to meet such losses
        self._start = Snapshot(module)
        scales = self._scales(module)
        names = list(self.groups) if self.groups is not None else self._trained(module)
        judges = {name: Judge.of(module, module.groups[name]) for name in names}
        found: dict[str, Sweep] = {}
        for name in sorted(names, key=lambda name: judges[name].turn):
            held = {one.group: one.suggestion.rate for one in found.values()} if self.hold == "found" else {}
            found[name] = self._sweep(module, name, judges[name], scales, held)
        self.sweeps = [found[name] for name in names]
        self._start.restore()
        trainer.should_stop = True

    @staticmethod
    def _trained(module: MultiTaskModule) -> list[str]:
        return [name for name, named in module.groups.items() if any(p.requires_grad for p in named.values())]

    # ---------------------------------------------------------------------------------------------------- one group
    def _sweep(
        self,
        module: MultiTaskModule,
        group: str,
        judge: Judge,
        scales: Sequence[float],
        held: Mapping[str, float | None],
    ) -> Sweep:
        """Sweep one group's rate, after the same updates with it at rest.

        Args:
            module: as it was at the start, or will be.
            group: its name.
            judge: what judges it.
            scales: (T,) that the tasks' losses are divided by.
            held: rates of other groups; that of the configuration where there is none.
        """
        self.say(f"{group}: {len(self.rates)} rates, judged by {judge.name}")
        at_rest = self._values(module, group, judge, scales, 0.0, held, None)
        reference = _end(at_rest)
        values: list[float] = []
        for rate in self.rates:
            values.append(_end(self._values(module, group, judge, scales, rate, held, at_rest)))
            if math.isinf(values[-1]):
                break
        found = gains(values, [reference] * len(values), ratio=bool(judge.tasks))
        self._start.restore()
        if math.isinf(reference):
            suggestion = Suggestion(None, "the other groups diverge at their own rates: lower these first.")
        else:
            suggestion = suggest(self.rates[: len(found)], found)
        return Sweep(
            group,
            judge.name,
            rate_of(module.group_optimizers[group]),
            self.rates,
            tuple(values),
            reference,
            tuple(found),
            suggestion,
        )

    def _values(
        self,
        module: MultiTaskModule,
        group: str,
        judge: Judge,
        scales: Sequence[float],
        rate: float,
        held: Mapping[str, float | None],
        reference: Sequence[float] | None,
    ) -> list[float]:
        """Make updates at a rate; return the judged loss before each, and infinity as the last where it diverges."""
        assert self._record is not None  # `on_train_batch_end` has looked
        self._start.restore()
        for name, other in held.items():
            if other is not None:
                set_rate(module.group_optimizers[name], other)
        set_rate(module.group_optimizers[group], rate)
        values: list[float] = []
        for index in range(self._record.wanted):
            losses, objective = update(module, self._record.window(index))
            values.append(judge.value(losses, scales, objective))
            if reference is not None and _has_diverged(values[-1], reference[0], reference[index], bool(judge.tasks)):
                return [*values, math.inf]
        return values

    def _scales(self, module: MultiTaskModule) -> list[float]:
        """Return what divides each task's losses: its trivial predictor's, or its first if that is not above 0."""
        assert self._record is not None  # `on_train_batch_end` has looked
        windows = [self._record.window(index) for index in range(min(_FOR_SCALES, len(self._record.windows)))]
        found = trivial_losses(module, module.runtime, windows)
        first, _ = update(module, windows[0])
        return [
            scale if scale > 0 else abs(loss) if loss and math.isfinite(loss) else 1.0
            for scale, loss in zip(found, first, strict=True)
        ]


def update(module: MultiTaskModule, window: Window) -> tuple[list[float], float]:
    """Make one update; return the losses (T,) before it, nan of tasks without a label, and the objective.

    What is not a number is infinite here.
    """
    with module.trainer.precision_plugin.train_step_context(), torch.enable_grad():
        module.updates.make(window, cast("LightningOptimizer", module.optimizers()))
    found: list[float] = module.updates.losses.tasks.tolist()
    objective = float(module.updates.losses.objective)
    losses = [
        _or_infinite(loss) if count else math.nan for loss, count in zip(found, window.counts.values(), strict=True)
    ]
    return losses, _or_infinite(objective)


def _end(values: Sequence[float]) -> float:
    """Return the mean of the last third, of those that are known."""
    if values and math.isinf(values[-1]):
        return math.inf
    last = [value for value in values[-(-2 * len(values) // 3) :] if not math.isnan(value)]
    return sum(last) / len(last) if last else math.nan


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _has_diverged(value: float, first: float, reference: float, positive: bool) -> bool:
    if math.isnan(value):
        return False
    if not math.isfinite(value):
        return True
    return positive and first > 0 and value > _DIVERGED * max(first, reference)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all of an optimizer's parameters."""
    for options in optimizer.param_groups:  # a tensor may be that of other groups too
        options["lr"] = torch.full_like(options["lr"], rate) if isinstance(options["lr"], Tensor) else rate


def rate_of(optimizer: Optimizer) -> float:
    """Return the learning rate of an optimizer's first parameters."""
    return float(optimizer.param_groups[0]["lr"])
