"""One optimizer that owns the groups' optimizers, and one scheduler that owns theirs.

Lightning counts, scales, saves and tunes *one* optimizer correctly under manual optimization and several wrongly: its
global step, its GradScaler and its checkpoints assume one. So the groups' optimizers live behind one
:class:`CompositeOptimizer` that shares their state and their parameter groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, overload

from lightning.pytorch import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau as MonitoringPlateau
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from mtl_lightning.core.graph import BALANCER, DEFAULT, known_name
from mtl_lightning.core.merged_step import step_together
from mtl_lightning.types import ConfigurationError

SchedulerFactory: TypeAlias = Callable[[Optimizer], MonitoringPlateau] | Callable[[Optimizer], LRScheduler]
"""Makes a scheduler from an optimizer. Lightning's ReduceLROnPlateau, which has a ``monitor``, stands first, so that
the short name means it and not torch's."""


class CompositeOptimizer(Optimizer):
    """Named optimizers behind one: one shared ``state``, and the very same parameter-group dicts.

    So the base class's ``zero_grad`` and flat ``state_dict`` serve all of them, and a learning-rate monitor finds the
    groups by name.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        self.optimizers = dict(optimizers)
        self._stepped = False
        self._sharded = any(
            isinstance(p, DTensor) for o in optimizers.values() for g in o.param_groups for p in g["params"]
        )
        for name, optimizer in self.optimizers.items():
            for index, group in enumerate(optimizer.param_groups):
                group.setdefault("name", name if len(optimizer.param_groups) == 1 else f"{name}/{index}")
        super().__init__([group for o in self.optimizers.values() for group in o.param_groups], {})
        for optimizer in self.optimizers.values():
            self.state.update(optimizer.state)
        self._link()
        self.configured = {name: float(o.param_groups[0]["lr"]) for name, o in self.optimizers.items()}

    def set_rates(self, factor: float) -> None:
        """Set every group's learning rate to its configured one times ``factor``, for its schedulers to start from."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] = self.configured[name] * factor

    def _link(self) -> None:
        """Give the optimizers this one's state and groups; loading a state dict replaces both."""
        groups = iter(self.param_groups)
        self._linked = True
        for optimizer in self.optimizers.values():
            optimizer.state = self.state
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every group's optimizer once; the closure, in which Lightning runs its hooks, is called once before."""
        loss = closure() if closure is not None else None
        if self._stepped and not self._sharded:
            step_together(self.optimizers.values())
        else:  # a scheduler warns unless its own optimizer has stepped before it does
            for optimizer in self.optimizers.values():
                optimizer.step()
            self._stepped = True
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state whose groups have the same names and sizes.

        Raises:
            ConfigurationError: if they differ; it names the difference.
        """
        expected = {group["name"]: len(group["params"]) for group in self.param_groups}
        found = {group.get("name"): len(group["params"]) for group in state_dict["param_groups"]}
        if list(expected.items()) != list(found.items()):
            raise ConfigurationError(
                f"The optimizer groups changed between save and load: the module has {expected} (name: number of "
                f"parameters), the checkpoint {found}. Train with the groups of the checkpoint, or load its weights "
                "alone with `MultiTaskModule.load_from_checkpoint` and start a new run."
            )
        super().load_state_dict(state_dict)
        self._link()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: a group belongs to one of ``optimizers``, and every parameter of the module is in one already."""
        if "_linked" in self.__dict__:
            raise ConfigurationError("Expected every parameter to be in a group from the start; add it to `groups`.")
        super().add_param_group(param_group)


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` cannot run without a closure (LBFGS)."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


@dataclass
class Schedule:
    """A group's learning-rate scheduler with its options.

    Args:
        scheduler: makes the scheduler from the group's optimizer.
        interval: step it after every update, or after every epoch.
        frequency: step it every so many intervals.
        monitor: the metric that a ``ReduceLROnPlateau`` watches, e.g. ``val/loss``.
        warmup: the first so many intervals raise the rate linearly from a hundredth, before the scheduler starts.
    """

    scheduler: SchedulerFactory
    interval: Literal["step", "epoch"] = "epoch"
    frequency: int = 1
    monitor: str | None = None
    warmup: int = 0


class GroupScheduler:
    """A :class:`Schedule` at work on one group's optimizer."""

    def __init__(self, name: str, schedule: Schedule | SchedulerFactory, optimizer: Optimizer) -> None:
        options = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
        self.name, self.interval, self.frequency = name, options.interval, options.frequency
        if options.interval not in ("step", "epoch") or options.frequency < 1 or options.warmup < 0:
            raise ConfigurationError(
                f"`schedulers.{name}`: expected interval 'step' or 'epoch', frequency >= 1 and warmup >= 0, found "
                f"{options.interval!r}, {options.frequency} and {options.warmup}."
            )
        # SequentialLR puts the configured rate back before it starts, so the order of construction does not matter
        warm = LinearLR(optimizer, start_factor=0.01, total_iters=options.warmup) if options.warmup else None
        self.scheduler: LRScheduler | ReduceLROnPlateau = options.scheduler(optimizer)
        self.on_plateau = isinstance(self.scheduler, ReduceLROnPlateau)
        self.last_epoch = -1
        self.monitor = options.monitor or getattr(self.scheduler, "monitor", None)
        if self.on_plateau and self.monitor is None:
            raise ConfigurationError(
                f"`schedulers.{name}`: ReduceLROnPlateau needs a `monitor`, such as 'val/loss', found none."
            )
        if warm is not None:
            if isinstance(self.scheduler, ReduceLROnPlateau):
                raise ConfigurationError(f"`schedulers.{name}`: a warm-up cannot precede ReduceLROnPlateau.")
            self.scheduler = SequentialLR(optimizer, [warm, self.scheduler], milestones=[options.warmup])

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Step once, with the monitored metric where the scheduler wants one.

        Raises:
            ConfigurationError: if the monitored metric was not logged.
        """
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if self.monitor not in metrics:
                raise ConfigurationError(
                    f"`schedulers.{self.name}` monitors {self.monitor!r}, which was not logged: found "
                    f"{sorted(metrics)}."
                )
            self.scheduler.step(metrics[str(self.monitor)])
        else:
            self.scheduler.step()


class CompositeScheduler:
    """The groups' schedulers behind one, so that Lightning saves and restores them together."""

    def __init__(self, optimizer: CompositeOptimizer, schedules: Mapping[str, Schedule | SchedulerFactory]) -> None:
        for name in schedules:  # the balancer may learn nothing: changing it is one line
            known_name(name, dict.fromkeys([*optimizer.optimizers, BALANCER, DEFAULT]), "schedulers")
        self.optimizer = optimizer
        chosen = {name: schedules.get(name, schedules.get(DEFAULT)) for name in optimizer.optimizers}
        self.schedulers = {
            name: GroupScheduler(name, schedule, optimizer.optimizers[name])
            for name, schedule in chosen.items()
            if schedule is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the schedulers' states by group."""
        return {name: s.scheduler.state_dict() for name, s in self.schedulers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the schedulers' states by group.

        Raises:
            ConfigurationError: if the groups that have a scheduler differ.
        """
        if sorted(state_dict) != sorted(self.schedulers):
            raise ConfigurationError(
                f"The scheduled groups changed between save and load: the module schedules {sorted(self.schedulers)}, "
                f"the checkpoint {sorted(state_dict)}."
            )
        for name, scheduler in self.schedulers.items():
            scheduler.scheduler.load_state_dict(state_dict[name])

    def step(self, interval: str, index: int, metrics: Mapping[str, Any]) -> None:
        """Step the schedulers that are due after ``index`` intervals; plateau ones by epoch wait for their metric."""
        for scheduler in self.schedulers.values():
            waits = scheduler.on_plateau and interval == "epoch"
            if scheduler.interval == interval and index % scheduler.frequency == 0 and not waits:
                scheduler.step(metrics)

    def step_plateaus(self, trainer: Trainer, before: Mapping[str, Any]) -> None:
        """Step the plateau schedulers by epoch, once an epoch, as soon as their metric has been logged anew.

        Called at the end of a validation, so that a checkpoint written there holds the new rates, and at the end of
        the epoch. An epoch without a validation steps no scheduler that watches one.

        Args:
            trainer: whose metrics are read.
            before: its metrics at the start of the epoch.
        """
        epoch, metrics, every = trainer.current_epoch, trainer.callback_metrics, trainer.check_val_every_n_epoch
        must_be_known = not trainer.validating and (every is None or (epoch + 1) % every == 0)
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
