"""The groups' learning-rate schedulers, and one that owns them all, as Lightning saves and restores one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from mtl_lightning.core.network.graph import BALANCER, DEFAULT
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.optim.schedulers import SchedulerFactory, counts_updates, filled, given_to, share
from mtl_lightning.errors import CheckpointError
from mtl_lightning.names import did_you_mean, known_name
from mtl_lightning.plain import other_kind
from mtl_lightning.ranges import Ranged, outside
from mtl_lightning.types import ConfigurationError, MtlLightningWarning

Length: TypeAlias = Callable[[str], "int | None"]
"""Tells the number of updates (``"step"``) or epochs (``"epoch"``) of the run; None where it has no end."""


def no_length(_: str) -> int | None:
    """Tell nothing: outside a trainer the length of the run is not known."""
    return None


@dataclass
class Schedule(Ranged):
    """A group's learning-rate scheduler with its options.

    Args:
        scheduler: makes the scheduler from the group's optimizer.
        interval: step it after every update, or after every epoch; by default every epoch, and every update where the
            scheduler wants to know the number of steps of the run (``OneCycleLR``).
        frequency: step it every so many intervals.
        monitor: the metric that a ``ReduceLROnPlateau`` watches, e.g. ``val/loss_normalised``.
        warmup: the first so many intervals raise the rate linearly from a hundredth, before the scheduler starts; below
            1 it is the share of the run.
    """

    scheduler: SchedulerFactory
    interval: Literal["step", "epoch"] | None = None
    frequency: int = 1
    monitor: str | None = None
    warmup: int | float = 0


class GroupScheduler:
    """A :class:`Schedule` at work on one group's optimizer."""

    def __init__(
        self, name: str, schedule: Schedule | SchedulerFactory, optimizer: Optimizer, length: Length = no_length
    ) -> None:
        options = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
        self.name, self.frequency = name, options.frequency
        self.interval = options.interval or ("step" if counts_updates(options.scheduler) else "epoch")
        if self.interval not in ("step", "epoch"):
            raise ConfigurationError(
                f"`schedulers.{name}`: expected interval 'step' or 'epoch', found {options.interval!r}."
            )
        self._length = length
        with self._named():
            self.scheduler: LRScheduler | ReduceLROnPlateau = self._make(options, optimizer)
        self._length = no_length  # a trainer is neither copied nor pickled with it
        self.on_plateau = isinstance(self.scheduler, ReduceLROnPlateau)
        self.last_epoch = -1
        self.monitor = options.monitor or getattr(self.scheduler, "monitor", None)
        if self.on_plateau and self.monitor is None:
            raise ConfigurationError(
                f"`schedulers.{name}`: ReduceLROnPlateau needs a `monitor`, such as 'val/loss_normalised', found none."
            )

    def _make(self, options: Schedule, optimizer: Optimizer) -> LRScheduler | ReduceLROnPlateau:
        warmup = share(options.warmup, self._steps)
        run = self._length(self.interval) if warmup else None
        if run is not None and warmup > max(1, run // self.frequency) and run > 1:  # 1: a trial run of one batch
            rank_zero_warn(
                f"`schedulers.{self.name}`: expected a warm-up within the {run // self.frequency} steps of the run "
                f"(interval: {self.interval}), found {warmup}: the configured rate is never reached.",
                category=MtlLightningWarning,
            )
        # SequentialLR puts the configured rate back before it starts, so the order of construction does not matter
        warm = LinearLR(optimizer, start_factor=0.01, total_iters=warmup) if warmup else None
        scheduler: Any = filled(options.scheduler, lambda: self._steps() - warmup)(optimizer)
        for option, value in given_to(options.scheduler).items():
            for _, number, allowed in outside(type(scheduler), option, value):
                raise ConfigurationError(f"expected as `{option}` {allowed}, found {number:g}.")
        if not isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
            raise ConfigurationError(f"expected a scheduler, found {type(scheduler).__name__}.")
        self._check_steps(scheduler, warmup)
        if warm is None:
            return scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigurationError("a warm-up cannot precede ReduceLROnPlateau.")
        return SequentialLR(optimizer, [warm, scheduler], milestones=[warmup])

    def _steps(self) -> int:
        """Return how often the run steps it."""
        found = self._length(self.interval)
        if found is None:
            raise ConfigurationError(
                "expected a run whose length is known, found one without an end, or no trainer. Give the scheduler its "
                "number of steps, or the trainer `max_epochs` or `max_steps`."
            )
        return max(1, found // self.frequency)

    def _check_steps(self, scheduler: Any, before: int) -> None:
        """Refuse a scheduler that ends before the run does, which it would not survive."""
        total = getattr(scheduler, "total_steps", None)
        run = self._length(self.interval) if total is not None else None
        if total is not None and run is not None and total < run // self.frequency - before:
            raise ConfigurationError(
                f"expected total_steps of {type(scheduler).__name__} to be the {run // self.frequency - before} of the "
                f"run (interval: {self.interval}), found {total}. Leave it out: it follows from the run."
            )

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say of an error of the scheduler's which group's it is."""
        try:
            yield
        except (ArithmeticError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
            raise ConfigurationError(f"`schedulers.{self.name}`: {error}") from error

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Step once, with the monitored metric where the scheduler wants one.

        Raises:
            ConfigurationError: if the monitored metric was not logged.
        """
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if self.monitor not in metrics:
                raise ConfigurationError(
                    f"`schedulers.{self.name}` monitors {self.monitor!r}, which was not logged."
                    f"{did_you_mean(str(self.monitor), metrics)} Found {sorted(metrics)}."
                )
            self.scheduler.step(metrics[str(self.monitor)])
        else:
            with self._named():
                self.scheduler.step()


class CompositeScheduler:
    """The groups' schedulers behind one, so that Lightning saves and restores them together."""

    def __init__(
        self,
        optimizer: CompositeOptimizer,
        schedules: Mapping[str, Schedule | SchedulerFactory],
        length: Length = no_length,
    ) -> None:
        for name in schedules:  # the balancer may learn nothing: changing it is one line
            known_name(name, dict.fromkeys([*optimizer.optimizers, BALANCER, DEFAULT]), "schedulers")
        self.optimizer = optimizer
        chosen = {name: schedules.get(name, schedules.get(DEFAULT)) for name in optimizer.optimizers}
        self.schedulers = {
            name: GroupScheduler(name, schedule, optimizer.optimizers[name], length)
            for name, schedule in chosen.items()
            if schedule is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the schedulers' states by group, and the last epoch in which a plateau scheduler was stepped."""
        return {
            name: {"scheduler": s.scheduler.state_dict(), "last_epoch": s.last_epoch}
            for name, s in self.schedulers.items()
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the schedulers' states by group.

        Raises:
            CheckpointError: if the groups that have a scheduler differ, and for a state that is no such scheduler's.
        """
        if {*state_dict} != {*self.schedulers}:
            raise CheckpointError(
                f"The scheduled groups changed between save and load: the module schedules {sorted(self.schedulers)}, "
                f"the checkpoint {sorted(map(str, state_dict))}."
            )
        own = self.state_dict()
        for name, scheduler in self.schedulers.items():
            wrong = other_kind(state_dict[name], own[name], name, whole=True) or _lacking(
                state_dict[name], own[name], name
            )
            try:
                if wrong is None:
                    scheduler.scheduler.load_state_dict(state_dict[name]["scheduler"])
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                wrong = f"`{name}`: {error!r}"
            if wrong is not None:
                raise CheckpointError(
                    f"Expected the states of the groups' schedulers, found something else: {wrong}. Take another "
                    "checkpoint, or begin anew from its weights: load_from_checkpoint(path)."
                )
            scheduler.last_epoch = state_dict[name]["last_epoch"]

    def step(self, interval: str, index: int, metrics: Mapping[str, Any]) -> None:
        """Step the schedulers that are due after ``index`` intervals; plateau ones by epoch wait for their metric."""
        for scheduler in self.schedulers.values():
            waits = scheduler.on_plateau and interval == "epoch"
            if scheduler.interval == interval and index % scheduler.frequency == 0 and not waits:
                scheduler.step(metrics)

    def step_plateaus(
        self, epoch: int, metrics: Mapping[str, Any], before: Mapping[str, Any], must_be_known: bool
    ) -> None:
        """Step the plateau schedulers by epoch, once an epoch, as soon as their metric has been logged anew.

        Called at the end of a validation, so that a checkpoint written there holds the new rates, and at the end of
        the epoch. An epoch without a validation steps no scheduler that watches one.

        Args:
            epoch: the current one.
            metrics: the trainer's.
            before: the trainer's at the start of the epoch.
            must_be_known: whether a metric that was never logged is an error by now.
        """
        for scheduler in self.schedulers.values():
            waits = scheduler.on_plateau and scheduler.interval == "epoch" and scheduler.last_epoch < epoch
            monitor = str(scheduler.monitor)
            is_new = monitor in metrics and metrics[monitor] is not before.get(monitor)
            if (
                waits
                and (epoch + 1) % scheduler.frequency == 0
                and (is_new or (must_be_known and monitor not in metrics))
            ):
                scheduler.last_epoch = epoch
                scheduler.step(metrics)


def _lacking(state: Any, own: Any, place: str) -> str | None:
    """Say where a scheduler's state does not count what it counts; true and false come and go between versions."""
    if isinstance(own, list):
        pairs = [(place, *pair) for pair in zip(state, own, strict=False)]
    elif isinstance(own, Mapping):
        counts = [name for name, value in own.items() if isinstance(value, int | float) and not isinstance(value, bool)]
        if lost := [name for name in counts if name not in state]:
            return f"`{place}` without {lost[0]}"
        pairs = [(f"{place}.{name}", state[name], value) for name, value in own.items() if name in state]
    else:
        return None
    return next(filter(None, (_lacking(theirs, mine, at) for at, theirs, mine in pairs)), None)


def step_due(
    configs: Iterable[LRSchedulerConfig],
    interval: str,
    index: int,
    metrics: Mapping[str, Any],
    step_other: Callable[[Any, None], None],
) -> None:
    """Step the schedulers that are due after ``index`` intervals; plateau ones by epoch wait for the validation.

    Args:
        configs: the trainer's schedulers.
        interval: ``"step"`` or ``"epoch"``.
        index: the number of intervals so far.
        metrics: the trainer's.
        step_other: steps a scheduler that is a callback's: the learning-rate finder's, SWA's.
    """
    for config in configs:
        scheduler: Any = config.scheduler
        if isinstance(scheduler, CompositeScheduler):
            scheduler.step(interval, index, metrics)
        elif config.interval == interval and index % config.frequency == 0 and not config.reduce_on_plateau:
            step_other(scheduler, None)
