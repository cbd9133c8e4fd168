"""What the diagnosing callbacks share: which updates they look at, where they write, and how they warn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from mtl_lightning.core import MultiTaskModule
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError, MtlLightningWarning


def multi_task(module: LightningModule, callback: Callback) -> MultiTaskModule:
    """Return the module that a callback works on.

    Raises:
        ConfigurationError: if it is no :class:`~mtl_lightning.MultiTaskModule`.
    """
    if not isinstance(module, MultiTaskModule):
        raise ConfigurationError(
            f"{type(callback).__name__} works on tasks and groups of parameters: expected a MultiTaskModule, found "
            f"{type(module).__name__}. Leave the callback out for this module."
        )
    return module


class Diagnosis(Ranged, Callback):
    """Looks at some of the updates, writes ``diagnose/<symptom>/<group>``, and warns once per group and run.

    Args:
        every_n_steps: a value is written for every update whose number this divides; 0 switches the callback off.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.warned: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget what an earlier run was warned of."""
        multi_task(pl_module, self)
        self.warned = set()

    def write(self, module: MultiTaskModule, values: Mapping[str, float]) -> None:
        """Write the values of the update just made to every logger, and to the metrics that callbacks may monitor.

        Directly, as all records of an update: ``self.log`` costs about 0.4 ms per scalar. Update n is at step n - 1.
        """
        trainer = module.trainer
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=trainer.global_step - 1)

    def warn_once(self, group: str, message: str) -> None:
        """Give one :class:`~mtl_lightning.types.MtlLightningWarning` per group and run, on the first process."""
        if group not in self.warned:
            self.warned.add(group)
            rank_zero_warn(message, category=MtlLightningWarning)


def title(module: MultiTaskModule, group: str) -> str:
    """Return what to call a group in a sentence: a task's own group is mostly its head."""
    return f"Head {group}" if group in module.tasks else f"Group {group}"


def rate_of(module: MultiTaskModule, group: str) -> float:
    """Return the learning rate of a group's optimizer, the largest one if it has several."""
    return max(float(options["lr"]) for options in module.group_optimizers[group].param_groups)
