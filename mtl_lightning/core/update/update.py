"""One update: the gradient of a complete window of micro-batches, then one step of every group's optimizer.

In order: clear the last gradient; forward each micro-batch; divide the summed losses by the window's counts; let the
balancer make one number; differentiate once; leave absent tasks untouched; step, and record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from mtl_lightning.balancing.lookahead import TriesSteps
from mtl_lightning.core.network.network import Network
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.optim.plan import OptimizerPlan
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.sharding import average_whole_gradients
from mtl_lightning.core.update import record
from mtl_lightning.core.update.differentiate import differentiate
from mtl_lightning.core.update.epoch_losses import EpochLosses
from mtl_lightning.core.update.gradients import RowMemory
from mtl_lightning.core.update.label_sample import LabelSample
from mtl_lightning.core.update.lookahead import WindowLookahead
from mtl_lightning.core.update.losses import Losses, recomputed
from mtl_lightning.core.update.nonfinite import error_of, nonfinite_groups
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
        skipped: the number of updates that were left out because of such gradients.
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
        self.skipped = 0
        self.losses = Losses()
        self.epoch_losses = EpochLosses(runtime)
        self.label_sample = LabelSample(network, runtime)
        self.memory = RowMemory()
        self._least_losses = LeastLosses(network, runtime)
        self.window: Window | None = None
        self._row: record.Row | None = None
        self._records_all = False

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
        self.window = window
        self._row = row = record.collect(network, runtime, window, self.losses, composite, self._records_all)
        skipped = self.skipped
        runtime.step(optimizer)  # in which Lightning's hook calls `finish_gradients`
        if self.skipped == skipped:
            network.architecture.after_update()
            balancer.after_update(lambda: recomputed(network, runtime, window))
            if balancer.follows_epochs:
                self.epoch_losses.update(self.losses.tasks, window.counts)
        self._least_losses.update(self.losses.tasks, window.present)
        if row is not None:
            record.write(row, runtime.trainer)
            self._least_losses.read(row.losses, window.present)
        self.window = self._row = None
        return self.losses.objective

    def lookahead(self, optimizer: CompositeOptimizer) -> WindowLookahead | None:
        """Return the network beside its weights, on the window of the update that is under way; None if there is none.

        For callbacks that try steps, between the gradient and the step. What they do there leaves no trace.
        """
        if self.window is None:
            return None
        return WindowLookahead(self.network, self.runtime, self.window, optimizer, parts=1)

    def finish_gradients(self) -> None:
        """Do what needs the unscaled gradients: record their norms, refuse or skip non-finite ones, clip per group."""
        groups: dict[str, list[Tensor]] = {}
        if self._row is not None or self.on_nonfinite != "ignore":
            groups = {
                name: [_values(p.grad) for p in named.values() if p.grad is not None]
                for name, named in self.plan.groups.items()
            }
        known = None if self._row is None else self._row.add_norms(groups)
        if self.on_nonfinite != "ignore" and (bad := nonfinite_groups(groups, known)):
            self._refuse_or_skip(bad)
        if self.on_nonfinite == "skip" and self._row is not None:
            self._row.host["train/skipped"] = self.skipped
        for name, value in self.plan.gradient_clip.items():
            if name in self.plan.groups:
                nn.utils.clip_grad_norm_(list(self.plan.groups[name].values()), value)

    def _refuse_or_skip(self, bad: list[str]) -> None:
        if self.on_nonfinite == "skip":  # nothing is left to step, but the step still counts, as under a scaler
            self.skipped += 1
            for named in self.plan.groups.values():
                for parameter in named.values():
                    parameter.grad = None
        elif self.runtime.scaler is None:  # a gradient scaler meets overflows all the time, and skips these itself
            assert self.window is not None  # this is called from `make`
            raise error_of(self.network, self.runtime, self.window, self.losses.tasks, bad)

    def finish_epoch(self) -> None:
        """Give the balancer the epoch's mean losses; on its last batch, since later hooks are lost at a resume."""
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
        self.runtime.start()
        self._records_all = record.has_readers(self.runtime.trainer)

    def finish_fit(self) -> None:
        """Let go of the memory for rows, which may be as large as T networks."""
        self.memory.rows = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
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


def _values(grad: Tensor) -> Tensor:
    """Return a gradient, or the values of a sparse one, which norms do not take."""
    return grad.coalesce().values() if grad.is_sparse else grad
