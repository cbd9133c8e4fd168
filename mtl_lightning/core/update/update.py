"""One update: the gradient of a complete window of micro-batches, then one step of every group's optimizer.

In order: clear the last gradient; forward each micro-batch; divide the summed losses by the window's counts; let the
balancer make one number; differentiate once; leave absent tasks untouched; step, and record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from mtl_lightning.architectures.base import Architecture
from mtl_lightning.balancing.base import Balancer
from mtl_lightning.balancing.lookahead import TriesSteps
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.optim.plan import OptimizerPlan
from mtl_lightning.core.optim.taking_back import Before, state_of
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.sharding import average_whole_gradients
from mtl_lightning.core.update import record
from mtl_lightning.core.update.differentiate import differentiate
from mtl_lightning.core.update.epoch_losses import EpochLosses
from mtl_lightning.core.update.gradients import RowMemory
from mtl_lightning.core.update.label_sample import LabelSample
from mtl_lightning.core.update.lookahead import WindowLookahead
from mtl_lightning.core.update.losses import Losses, recomputed
from mtl_lightning.core.update.nonfinite import FiniteCheck, look_at
from mtl_lightning.core.update.preconditions import LeastLosses, warn_if_nothing_is_shared, warn_of_short_run
from mtl_lightning.core.update.rescaling import rescale_targets
from mtl_lightning.core.update.window import Window
from mtl_lightning.types import ConfigurationError

_NONFINITE = ("raise", "skip", "ignore")


class Updates:
    """Makes one update after the other, and keeps what outlives each.

    Args:
        network: what is updated.
        runtime: where it runs.
        plan: its groups, and what clips them.
        on_nonfinite: what to do about a gradient that is inf or nan: ``raise``, ``skip`` the update, or ``ignore`` it.

    Attributes:
        finite: looks for such gradients.
        losses: what the last update found, or finds, of its losses.
        label_sample: of the training labels so far, for the trivial predictors.
        memory: for rows, while a fit lasts.
        window: of the update under way, between its gradient and its step, which Lightning's hooks join; else None.

    Raises:
        ConfigurationError: for another ``on_nonfinite``.
    """

    process_only: ClassVar[tuple[str, ...]] = ("epoch_losses", "label_sample")

    def __init__(self, network: Network, runtime: Runtime, plan: OptimizerPlan, on_nonfinite: str) -> None:
        if on_nonfinite not in _NONFINITE:
            raise ConfigurationError(f"`on_nonfinite`: expected one of {_NONFINITE}, found {on_nonfinite!r}.")
        self.network, self.runtime, self.plan, self.on_nonfinite = network, runtime, plan, on_nonfinite
        self.finite = FiniteCheck(network, runtime)
        self.losses = Losses()
        self.epoch_losses = EpochLosses(runtime)
        self.label_sample = LabelSample(network, runtime)
        self.memory = RowMemory()
        self._least_losses = LeastLosses(network, runtime)
        self.window: Window | None = None
        self._composite: CompositeOptimizer | None = None
        self._row: record.Row | None = None
        self._records_all = self._shows_at_once = False
        self._to_show: dict[str, float] = {}  # what was recorded, and the trainer's metrics do not hold yet
        self._shown_as = torch.get_default_dtype()
        self._tensors_only: bool | None = None  # unknown yet

    @property
    def skipped(self) -> int:
        """The number of updates that were left out because of gradients that are not finite."""
        return self.finite.skipped

    @skipped.setter
    def skipped(self, number: int) -> None:
        self.finite.skipped = number

    def make(self, window: Window, optimizer: LightningOptimizer) -> Tensor:
        """Make one update from a window in which some task has a label; return its objective ()."""
        network, runtime, balancer = self.network, self.runtime, self.network.balancer
        composite = optimizer.optimizer
        assert isinstance(composite, CompositeOptimizer)  # for the type checker; the plan makes it
        runtime.clear_gradients(composite, composite.zero_grad)
        self.label_sample.add(window)
        rescale_targets(network, runtime, window)
        if balancer.tries_steps:
            lookahead = WindowLookahead(network, runtime, window, composite)
            cast("TriesSteps", balancer).before_update(lookahead, window.present)
        self.losses = differentiate(network, runtime, window, self.memory, self.on_nonfinite == "ignore")
        average_whole_gradients(network, runtime)
        leave_absent_untouched(network, window)
        self.finite.settle()  # of the update before: by now the device has this one's work to do
        self.finite.bad = False
        self.window, self._composite = window, composite
        self._row = row = record.collect(network, runtime, window, self.losses, composite, self._records_all)
        runtime.step(optimizer)  # in which Lightning's hook calls `finish_gradients`
        if self.finite.bad is not True:
            self._follow(window, self.finite.bad)
        self._least_losses.update(self.losses.tasks, window.present)
        if row is not None:
            self._take_in(row.values())
            self._least_losses.read(row.losses, window.present)
        self.window = self._composite = self._row = None
        return self.losses.objective

    def _follow(self, window: Window, bad: Tensor | bool) -> None:
        """Do what follows a step, and take it back where ``bad``."""
        network, runtime, balancer = self.network, self.runtime, self.network.balancer
        before = None
        if isinstance(bad, Tensor):
            parts: list[nn.Module] = []
            if type(network.architecture).after_update is not Architecture.after_update:
                parts.append(network.architecture)
            if type(balancer).after_update is not Balancer.after_update:
                parts.append(balancer)
            before = Before([tensor for part in parts for tensor in state_of(part)])
        network.architecture.after_update()
        balancer.after_update(lambda: recomputed(network, runtime, window))
        if balancer.follows_epochs:
            self.epoch_losses.update(self.losses.tasks, window.counts, bad)
        if before is not None:
            assert isinstance(bad, Tensor)
            before.restore(bad)

    def lookahead(self, optimizer: CompositeOptimizer) -> WindowLookahead | None:
        """Return the network beside its weights, on the window of the update that is under way; None if there is none.

        For callbacks that try steps, between the gradient and the step. What they do there leaves no trace.
        """
        if self.window is None:
            return None
        return WindowLookahead(self.network, self.runtime, self.window, optimizer, parts=1)

    def finish_gradients(self) -> None:
        """Do what needs the unscaled gradients: record their norms, refuse or skip non-finite ones, clip per group."""
        row, groups = self._row, self.plan.groups
        if row is not None or self.on_nonfinite != "ignore":
            assert self.window is not None  # this is called from `make`
            assert self._composite is not None
            look = look_at(self.runtime.trainer.global_step + 1, self.window, self.losses.tasks, groups)
            if row is not None:
                row.add_norms(look.groups, look.norms)
            if self.on_nonfinite != "ignore":
                at_once = row is not None
                self.finite.look(look, self.on_nonfinite, self._composite, at_once=at_once, can_undo=self._can_undo)
        if self.on_nonfinite == "skip" and row is not None:
            row.host["train/skipped"] = self.skipped
        for name, value in self.plan.gradient_clip.items():
            if name in self.plan.groups:
                nn.utils.clip_grad_norm_(list(self.plan.groups[name].values()), value)

    def _can_undo(self) -> bool:
        """Whether what follows the step changes nothing but tensors that are there already."""
        if self._tensors_only is None:
            network = self.network
            self._tensors_only = network.architecture.tensors_only and network.balancer.changes_tensors_only()
        return self._tensors_only and not (self.network.balancer.follows_epochs and self.epoch_losses.sums is None)

    def _take_in(self, values: dict[str, float]) -> None:
        """Write what was recorded, and show it, if nobody looks before :meth:`settle`, only then."""
        record.write(values, self.runtime.trainer)
        self._to_show.update(values)
        self._shown_as = torch.get_default_dtype()  # within an update that of the trainer's precision
        if self._shows_at_once or not self.runtime.fast_paths:
            self._show()

    def _show(self) -> None:
        values, self._to_show = self._to_show, {}
        if values:
            record.show(values, self.runtime.trainer, self._shown_as)

    def settle(self) -> None:
        """Take in, before anybody looks at weights or metrics, whether the last update's gradients were finite.

        Raises:
            NonFiniteError: under ``raise``, if they were not.
        """
        self._show()
        self.finite.settle()

    def finish_epoch(self) -> None:
        """Give the balancer the epoch's mean losses; on its last batch, since later hooks are lost at a resume."""
        self.settle()
        self.label_sample.fit()
        means = self.epoch_losses.compute_and_reset()
        if means is not None:
            self.network.balancer.after_epoch(*means)

    def warn_of_setup(self) -> None:
        """Say what a run will not do that its balancer stands for."""
        warn_if_nothing_is_shared(self.network)
        warn_of_short_run(self.network, self.runtime)

    def start_fit(self) -> None:
        """Look what is frozen, and who reads metrics of training; forget the labels of another fit."""
        self.label_sample.load_state_dict({})
        self.finite.start_afresh()
        self._tensors_only = None
        self.runtime.start()
        self._to_show = {}
        self._records_all = record.has_readers(self.runtime.trainer)
        self._shows_at_once = record.looks_at_once(self.runtime.trainer)

    def finish_fit(self) -> None:
        """Let go of the memory for rows, which may be as large as T networks."""
        self.memory.rows = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint.

        Raises:
            NonFiniteError: under ``raise``, if gradients of the update before were inf or nan.
        """
        self.settle()
        return {
            "skipped": self.skipped,
            "epoch_losses": self.epoch_losses.state_dict(),
            "label_sample": self.label_sample.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.skipped = state["skipped"]
        self.epoch_losses.load_state_dict(state.get("epoch_losses", {}))
        self.label_sample.load_state_dict(state.get("label_sample", {}))


def leave_absent_untouched(network: Network, window: Window) -> None:
    """Set the gradients of absent tasks to None, so that no optimizer moves them: neither by momentum nor decay.

    A task that a present one reads through an open edge keeps its gradients, though not its balancer state.
    """
    absent = [(index, name) for index, (name, count) in enumerate(window.counts.items()) if not count]
    if not absent:
        return
    reached = network.graph.reached_by(window.names)
    owned = network.balancer.owned()
    for index, name in absent:
        parameters = [] if name in reached else list(network.roles.tasks[name].values())
        for parameter in [*parameters, *owned.get(index, [])]:
            parameter.grad = None
