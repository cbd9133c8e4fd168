"""``BackboneFinetuning`` for a module whose groups own every parameter, frozen ones too, from the start.

Relies on ``BackboneFinetuning.finetune_function``, which reads the first group's rate and writes the last group's, and
on ``BaseFinetuning._internal_optimizer_metadata``.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from torch.optim import Optimizer

from mtl_lightning.types import ConfigurationError


class GroupBackboneFinetuning(BackboneFinetuning):
    """Lightning's callback, which writes the backbone's rate into the groups that hold the backbone.

    Lightning's own adds the unfrozen backbone to the optimizer as its last group, and later writes into the last
    group. Here the backbone is in groups already, and the last one is another's. The rate of the rest, which the
    backbone's is aligned with, is that of the first group without backbone.

    It takes the place of the user's callback and shares its state.
    """

    def __init__(self, callback: BackboneFinetuning) -> None:
        self.__dict__ = callback.__dict__

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the parameter groups of an interrupted run, which are those of the module."""
        self._internal_optimizer_metadata = {}
        super().on_fit_start(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze the backbone where the interrupted run had done so."""
        super().on_train_start(trainer, pl_module)
        if trainer.current_epoch >= self.unfreeze_backbone_at_epoch:
            self.make_trainable(pl_module.backbone)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Unfreeze the backbone, or raise its rate, at the start of an epoch.

        Raises:
            ConfigurationError: if a group holds parts of the backbone and other parameters.
        """
        backbone = {id(p) for p in pl_module.backbone.parameters()}  # type: ignore[union-attr]  # checked to be a module
        share = {
            g["name"]: sum(id(p) in backbone for p in g["params"]) / len(g["params"]) for g in optimizer.param_groups
        }
        if mixed := [name for name, part in share.items() if 0 < part < 1]:
            raise ConfigurationError(
                f"BackboneFinetuning gives the backbone a rate of its own: expected groups that are part of it or not, "
                f"found {mixed}, which hold parts of both. Split them in `groups`, or leave `groups` out."
            )
        own = [group for group in optimizer.param_groups if share[group["name"]] == 1]
        rest = [group for group in optimizer.param_groups if share[group["name"]] == 0]
        two: Any = _TwoGroups(rest[0]["lr"], own[0]["lr"])
        super().finetune_function(pl_module, epoch, two)
        for group in own:
            group["lr"] = two.param_groups[-1]["lr"]


class _TwoGroups:
    """What Lightning's callback takes for an optimizer: the rest's rate first, the backbone's last."""

    def __init__(self, rest: float, backbone: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": [], "lr": rate} for rate in (rest, backbone)]
        self.add_param_group = self.param_groups.append
