"""The symptom of a learning rate too small or too large: how far updates change the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from mtl_lightning.callbacks.diagnosis import Remembering, multi_task, rate_of, title
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.sharding import total_norm

_LOW_SAMPLES = 2  # before a warning: a single one may be chance
_AS_MEANT = 0.1  # of the rate that a schedule started from; below it, the schedule holds the rate down on purpose
_FAST_SAMPLES = 5  # in a row before a warning, without a look at rates: the first updates of a run are long
_APART_SAMPLES = 3  # the same of a head whose rate is far above the other heads'
_MOVING = 3e-3  # a ratio above the usual 1e-3: whatever its rate, a head with less does not move too far


class _Snapshot(NamedTuple):
    """A group before its step: parameters, copies of their values, the norm () of their gradients, and the rate."""

    parameters: list[nn.Parameter]
    values: list[Tensor]
    grad_norm: Tensor
    rate: float

    def norms(self) -> Tensor:
        """Return the norms (3,) of the update, of the weights before it, and of the gradient; spends the copies."""
        weights = total_norm(self.values)
        for parameter, value in zip(self.parameters, self.values, strict=True):
            value.sub_(parameter.detach())
        return torch.stack([total_norm(self.values), weights, self.grad_norm.to(weights)])


class UpdateRatio(Remembering):
    """Measures how far an update moves: ``watch/update_ratio/<group>``, norm of the update over that of the weights.

    Healthy values are around 1e-3. One that stays below the threshold is the symptom of a learning rate too small: a
    group that changes by a millionth of itself per update has not gone far after thousands of them. One warning
    (:class:`~mtl_lightning.types.MtlLightningWarning`) per group and run says so, and names the learning rate.

    A rate is called too large, likewise,

    - if five samples in a row are at ``largest`` or above: weights that change by a tenth per update are made anew
      every ten updates, out of the noise of ten batches. Heads at a usual rate are there at most in their first
      updates. The balancer's group is left out, since log-variances may well pass through 0;
    - for the head of a task, if its rate is ``apart`` times the median of those of the other heads with the same kind
      of optimizer, or more, and three samples in a row are above 3e-3: it does move faster, and nothing but its rate
      sets it apart. Adam's steps do not follow the scale of a loss, so that no target needs such a rate.

    The norms are Euclidean, over the parameters of the group that got a gradient in this update, weight decay and
    clipping included. A group without a gradient (its tasks are absent, its parameters frozen) has no value, nor one
    whose weights are all 0. A warning needs two samples, all so far being below the threshold: a group that has once
    moved faster in this run (before an interruption, too) has no rate that is too small, but has converged, or its
    gradient has vanished, or a schedule has ended. Samples do not count

    - at a rate of 0, or while a warm-up or a schedule holds the rate below a tenth of what it started from;
    - if the gradient is exactly 0, which no rate could turn into an update, or not finite, so that a gradient scaler
      skips the step.

    On a sampled update the parameters are copied once, in float32 or better, and the host waits for the device once.
    Sharded parameters (FSDP2) are measured whole, with a reduction over the processes per norm.

    Args:
        every_n_steps: samples every update whose number this divides. 0 switches the callback off.
        threshold: the ratio below which a group hardly learns.
        largest: the ratio from which on a group moves too far.
        apart: how many times the other heads' rate the rate of a head may be.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    fresh: ClassVar[Mapping[str, Any]] = {"moved": [], "low": {}, "fast": {}, "apart": {}}
    """The groups that have once moved faster than the threshold; of the others, the samples below it; and the samples
    in a row that are above ``largest``, or are of a head whose rate is apart."""

    def __init__(
        self, every_n_steps: int = 50, threshold: float = 1e-6, largest: float = 0.1, apart: float = 30.0
    ) -> None:
        super().__init__(every_n_steps)
        self.threshold, self.largest, self.apart = threshold, largest, apart
        self._snapshots: dict[str, _Snapshot] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget an earlier run."""
        super().setup(trainer, pl_module, stage)
        self._snapshots = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """On a sampled update, take the snapshots."""
        if not self.every_n_steps or (trainer.global_step + 1) % self.every_n_steps:
            return
        module = multi_task(pl_module, self)
        for group, named in module.groups.items():
            members = [parameter for parameter in named.values() if parameter.grad is not None]
            if members:
                self._snapshots[group] = _Snapshot(
                    members, [_copy(p) for p in members], _grad_norm(members), rate_of(module, group)
                )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a sampled update, write the ratios."""
        if not self._snapshots:
            return
        module, snapshots = multi_task(pl_module, self), self._snapshots
        self._snapshots = {}
        norms = torch.stack([snapshot.norms().to(module.device) for snapshot in snapshots.values()]).tolist()
        ratios = {}
        for (group, snapshot), (update, weights, grad) in zip(snapshots.items(), norms, strict=True):
            if weights > 0:
                ratios[group] = update / weights
                self._judge(module, group, ratios[group], grad, snapshot.rate)
        self.write(module, {f"watch/update_ratio/{group}": ratio for group, ratio in ratios.items()})

    def _judge(self, module: MultiTaskModule, group: str, ratio: float, grad_norm: float, rate: float) -> None:
        """Warn of a group that has hardly moved, whenever it could have, or that moves too far all the time."""
        self._judge_fast(module, group, ratio, rate)
        moved, low = self.seen["moved"], self.seen["low"]
        if ratio >= self.threshold and group not in moved:
            self.seen["moved"] = sorted([*moved, group])
        started = max(float(o.get("initial_lr", 0.0)) for o in module.group_optimizers[group].param_groups)
        could_move = 0 < grad_norm < math.inf and rate > 0 and rate >= _AS_MEANT * started
        if group in self.seen["moved"] or not could_move:
            return
        low[group] = low.get(group, 0) + 1
        if low[group] >= _LOW_SAMPLES:
            self.warn_once(
                module,
                [group],
                f"{title(module, group)}: an update changes its weights by {ratio:.1e} of their norm at learning rate "
                f"{rate:g}, and no sampled one so far by {self.threshold:g} or more. A rate this small hardly learns: "
                f"raise `optimizers.{group}`. If the rate is as you want it, see `train/grad_norm/{group}`: the "
                "gradient may be vanishing.",
            )

    def _judge_fast(self, module: MultiTaskModule, group: str, ratio: float, rate: float) -> None:
        """Warn of a group whose updates are too long, and of a head with a rate that is far above the others'."""
        others, fast, apart = _rates_of_other_heads(module, group), self.seen["fast"], self.seen["apart"]
        stands_out = bool(others) and rate >= self.apart * median(others) > 0
        learned_by_balancer = module.groups[group].keys() <= module.roles.balancer.keys()
        fast[group] = fast.get(group, 0) + 1 if ratio >= self.largest and not learned_by_balancer else 0
        apart[group] = apart.get(group, 0) + 1 if ratio >= _MOVING and stands_out else 0
        if apart[group] < _APART_SAMPLES and fast[group] < _FAST_SAMPLES:
            return
        compared = f", {rate / median(others):.3g} times that of other heads" if stands_out else ""
        self.warn_once(
            module,
            [group],
            f"{title(module, group)}: an update changes its weights by {ratio:.1e} of their norm, time and again; "
            f"about 1e-3 is usual. Its learning rate, {rate:g}{compared}, is too large: what a batch teaches, the next "
            f"one undoes. Lower the rate of `optimizers.{group}`.",
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the parameters."""
        self._snapshots = {}


def _rates_of_other_heads(module: MultiTaskModule, group: str) -> list[float]:
    """Return the rates of the other tasks' groups with the same kind of optimizer; nothing for no task's group."""
    kind = type(module.group_optimizers[group])
    heads = [name for name, optimizer in module.group_optimizers.items() if name in module.tasks and name != group]
    same = [name for name in heads if type(module.group_optimizers[name]) is kind]
    return [rate_of(module, name) for name in same] if group in module.tasks else []


def _copy(parameter: nn.Parameter) -> Tensor:
    """Return a copy in float32 or better, in which a small change is not lost."""
    precise = torch.promote_types(parameter.dtype, torch.float32)
    return parameter.detach().to(precise, copy=True)


def _grad_norm(parameters: list[nn.Parameter]) -> Tensor:
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return total_norm([grad.coalesce().values() if grad.is_sparse else grad for grad in grads])
