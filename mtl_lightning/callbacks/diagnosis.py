"""What the diagnosing callbacks share: which updates they look at, where they write, and how they warn."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.hooks import RemovableHandle

from mtl_lightning.core import MultiTaskModule
from mtl_lightning.ranges import Ranged
from mtl_lightning.types import ConfigurationError, MtlLightningWarning

_ONCE_CALLED = {"watch/dead_units/": "diagnose/dead_units/", "watch/update_ratio/": "diagnose/update_ratio/"}


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
    """Looks at some of the updates, writes ``watch/<symptom>/<group>``, and warns once per group and run.

    One fault has many symptoms: a head that has died is a task left behind as well. So a task or a group that one
    diagnosis of the trainer has warned of is left alone by the others: the first symptom is nearest to the cause.

    Args:
        every_n_steps: a value is written for every update whose number this divides; 0 switches the callback off.

    Attributes:
        warned: the tasks and groups that this callback has warned of.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.warned: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget an earlier run."""
        multi_task(pl_module, self)
        self.warned = set()

    def write(self, module: MultiTaskModule, values: Mapping[str, float]) -> None:
        """Write the values of the update just made to every logger, and to the metrics that callbacks may monitor.

        Directly, as all records of an update: ``self.log`` costs about 0.4 ms per scalar. Update n is at step n - 1.
        What was called otherwise once may be monitored by that name, too.
        """
        trainer = module.trainer
        metrics = {name: torch.tensor(value) for name, value in values.items()}
        for new, old in _ONCE_CALLED.items():
            metrics |= {old + name.removeprefix(new): v for name, v in [*metrics.items()] if name.startswith(new)}
        trainer.callback_metrics.update(metrics)
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=trainer.global_step - 1)

    def warn_once(self, module: MultiTaskModule, subjects: Sequence[str], message: str) -> None:
        """Give one :class:`~mtl_lightning.types.MtlLightningWarning` per subject and run, on the first process.

        Args:
            module: what is trained.
            subjects: the tasks or groups that the warning is about; nothing is said if any callback of the trainer has
                warned of one of them.
            message: what is wrong, why it matters, and which key to change.
        """
        if not self.known(module).intersection(subjects):
            self.warned.update(subjects)
            rank_zero_warn(message, category=MtlLightningWarning)

    def known(self, module: MultiTaskModule) -> set[str]:
        """Return the tasks and groups that some diagnosis has warned of in this run."""
        callbacks: list[Callback] = module.trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
        others = (callback.warned for callback in callbacks if isinstance(callback, Diagnosis))
        return self.warned.union(*others)


class Remembering(Diagnosis):
    """A diagnosis that compares updates far apart, and goes on with what it has seen when a run is resumed.

    Args:
        every_n_steps: see :class:`Diagnosis`.

    Attributes:
        seen: plain data, which checkpoints hold.
    """

    fresh: ClassVar[Mapping[str, Any]] = {}
    """What ``seen`` is at the start of a run."""

    def __init__(self, every_n_steps: int) -> None:
        super().__init__(every_n_steps)
        self.seen: dict[str, Any] = copy.deepcopy(dict(self.fresh))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules, and forget an earlier run."""
        super().setup(trainer, pl_module, stage)
        self.seen = copy.deepcopy(dict(self.fresh))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know to go on as if it had not been interrupted."""
        return copy.deepcopy(self.seen)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of an interrupted run."""
        self.seen = copy.deepcopy(dict(self.fresh)) | copy.deepcopy(state_dict)


def take_off(hooks: list[RemovableHandle]) -> None:
    """Take hooks off a network, and empty their list."""
    while hooks:
        hooks.pop().remove()


def title(module: MultiTaskModule, group: str) -> str:
    """Return what to call a group in a sentence: a task's own group is mostly its head."""
    return f"Head {group}" if group in module.tasks else f"Group {group}"


def rate_of(module: MultiTaskModule, group: str) -> float:
    """Return the learning rate of a group's optimizer, the largest one if it has several."""
    return max(float(options["lr"]) for options in module.group_optimizers[group].param_groups)
