"""The symptom of a learning rate too small: updates that hardly change the weights."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from mtl_lightning.callbacks.diagnosis import Diagnosis, multi_task, rate_of, title
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.sharding import total_norm

_LOW_SAMPLES = 2  # before a warning: a single one may be chance
_AS_MEANT = 0.1  # of the rate that a schedule started from; below it, the schedule holds the rate down on purpose


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


class UpdateRatio(Diagnosis):
    """Measures how far an update moves: ``diagnose/update_ratio/<group>``, norm of the update over that of the weights.

    Healthy values are around 1e-3. One that stays below the threshold is the symptom of a learning rate too small: a
    group that changes by a millionth of itself per update has not gone far after thousands of them. One warning
    (:class:`~mtl_lightning.types.MtlLightningWarning`) per group and run says so, and names the learning rate.

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

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``.
    """

    def __init__(self, every_n_steps: int = 50, threshold: float = 1e-6) -> None:
        super().__init__(every_n_steps)
        self.threshold = threshold
        self._moved: set[str] = set()  # groups that have once moved faster than the threshold
        self._low: dict[str, int] = {}  # samples below the threshold, of groups that have not moved
        self._snapshots: dict[str, _Snapshot] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget an earlier run."""
        super().setup(trainer, pl_module, stage)
        self._moved, self._low, self._snapshots = set(), {}, {}

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
        self.write(module, {f"diagnose/update_ratio/{group}": ratio for group, ratio in ratios.items()})

    def _judge(self, module: MultiTaskModule, group: str, ratio: float, grad_norm: float, rate: float) -> None:
        """Warn of a group that has hardly moved, whenever it could have."""
        if ratio >= self.threshold:
            self._moved.add(group)
        started = max(float(o.get("initial_lr", 0.0)) for o in module.group_optimizers[group].param_groups)
        could_move = 0 < grad_norm < math.inf and rate > 0 and rate >= _AS_MEANT * started
        if group in self._moved or not could_move:
            return
        self._low[group] = self._low.get(group, 0) + 1
        if self._low[group] >= _LOW_SAMPLES:
            self.warn_once(
                group,
                f"{title(module, group)}: an update changes its weights by {ratio:.1e} of their norm at learning rate "
                f"{rate:g}, and no sampled one so far by {self.threshold:g} or more. A rate this small hardly learns: "
                f"raise `optimizers.{group}`. If the rate is as you want it, see `train/grad_norm/{group}`: the "
                "gradient may be vanishing.",
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the parameters."""
        self._snapshots = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know to go on as if it had not been interrupted."""
        return {"moved": sorted(self._moved), "low": dict(self._low)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of an interrupted run."""
        self._moved, self._low = set(state_dict["moved"]), dict(state_dict["low"])


def _copy(parameter: nn.Parameter) -> Tensor:
    """Return a copy in float32 or better, in which a small change is not lost."""
    precise = torch.promote_types(parameter.dtype, torch.float32)
    return parameter.detach().to(precise, copy=True)


def _grad_norm(parameters: list[nn.Parameter]) -> Tensor:
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return total_norm([grad.coalesce().values() if grad.is_sparse else grad for grad in grads])
