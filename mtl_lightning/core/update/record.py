"""What is written during training, and when: one row per recorded update, moved to the host in one transfer.

``self.log`` costs about 0.4 ms per scalar and call; these values stay tensors on the device and are written by the
loggers directly, on the steps that the trainer's ``log_every_n_steps`` asks for. Update n is written at step n - 1,
as Lightning does. Where somebody reads metrics of training between these steps, every update's are brought over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.optim.schedules import CompositeScheduler
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.update.best_validation import BestValidation
from mtl_lightning.core.update.event_rows import add_row
from mtl_lightning.core.update.losses import Losses
from mtl_lightning.core.update.run_table import made_with, write_line
from mtl_lightning.core.update.window import Window

_KNOWN = ("lightning", "pytorch_lightning", "mtl_lightning")  # whose callbacks say in `monitor` what they read


class Row:
    """Named scalars of one update: tensors on the device until :meth:`values` brings all of them over at once.

    Args:
        losses: (T,) of all tasks, summed over processes.
    """

    def __init__(self, losses: Tensor) -> None:
        self.losses = losses
        self._names: list[str] = []
        self._tensors: list[Tensor] = []
        self._norms: list[tuple[str, int]] = []
        self._of_norms: list[Tensor] = []
        self.host: dict[str, float] = {}

    def add(self, names: Sequence[str], values: Tensor) -> None:
        """Add scalars () or a vector with a name for each entry; detached."""
        self._names += names
        self._tensors.append(values if values.dim() == 1 else values.reshape(-1))

    def add_norms(self, groups: Mapping[str, Sequence[Any]], norms: Tensor) -> None:
        """Add the gradient norm of each group that has a gradient; they are put together on the host.

        Args:
            groups: the parameters of each group that have one.
            norms: (N,) of their gradients, group by group.
        """
        present = tuple(name for name, parameters in groups.items() if parameters)
        self._norms = [*zip(_tags("grad_norm", present), [len(groups[name]) for name in present], strict=True)]
        self._of_norms = [norms] if present else []

    def values(self) -> dict[str, float]:
        """Return all scalars by name; the one transfer."""
        flat: list[float] = torch.cat([*self._tensors, *self._of_norms]).tolist()
        found = dict(zip(self._names, flat, strict=False))
        start = len(self._names)
        for name, number in self._norms:
            found[name] = math.hypot(*flat[start : start + number])
            start += number
        found.update(self.host)
        return found


@lru_cache(maxsize=1024)
def _tags(kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags of a kind of scalar, kept for the updates to come."""
    return tuple(f"train/{kind}/{name}" for name in names)


@lru_cache(maxsize=64)
def _on_bar(tags: tuple[str, ...]) -> dict[str, str]:
    """Return which of some tags the progress bar shows, each with what it is called there."""
    return {tag: tag.removeprefix("train/") for tag in tags if tag.startswith("train/loss")}


def _asked_for(trainer: Trainer, update: int) -> bool:
    """Whether the loggers want the update with this number, counted from 1."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside Trainer.__init__
    return every > 0 and (update % every == 0 or trainer.should_stop)  # as Lightning, all of the last steps


def has_readers(trainer: Trainer) -> bool:
    """Whether somebody may read ``train/*`` among the trainer's metrics after any update.

    These are callbacks and schedulers that monitor one, and callbacks of the user's own, which may read what they like.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
    if any(type(callback).__module__.partition(".")[0] not in _KNOWN for callback in callbacks):
        return True
    schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    composites = [scheduler for scheduler in schedulers if isinstance(scheduler, CompositeScheduler)]
    watching = [*callbacks, *(one for composite in composites for one in composite.schedulers.values())]
    return any(str(getattr(one, "monitor", None)).startswith("train/") for one in watching)


def collect(
    network: Network, runtime: Runtime, window: Window, losses: Losses, optimizer: CompositeOptimizer, always: bool
) -> Row | None:
    """Take the row of an update before its step, so that losses, weights and sigmas belong together.

    None on steps that nobody asks for, unless it is taken ``always``.
    """
    trainer = runtime.trainer
    if not (always or _asked_for(trainer, trainer.global_step + 1) or trainer.is_last_batch):
        return None
    tasks, objective = losses.tasks, losses.objective.detach().reshape(1)
    if runtime.world_size > 1:
        totals = runtime.all_sum(torch.cat([tasks, objective / runtime.world_size]))
        tasks, objective = totals[:-1], totals[-1:]
    row = Row(tasks)
    names, every = tuple(window.names), tuple(window.counts)
    everyone = len(names) == len(every)
    present = [] if everyone else window.present_indices
    row.add(["train/loss"], objective)
    row.add(_tags("loss", names), tasks if everyone else tasks[present])
    if losses.weights is not None:
        row.add(_tags("weight", names), losses.weights if everyone else losses.weights[present])
    sigmas = network.balancer.sigmas()
    if sigmas is not None:
        row.add(_tags("sigma", every), sigmas)
    for name, task in network.tasks.items():
        if (found := task.output_sigmas()) is not None:
            row.add(_tags(f"sigma/{name}", tuple(task.spec.named(len(found)))), found)
    for tag, value in zip(_tags("aux", tuple(losses.aux)), losses.aux.values(), strict=True):
        row.add([tag], value)
    row.host.update(zip(_tags("labels", every), window.counts.values(), strict=True))  # on the host already
    rates = [float(one.param_groups[0]["lr"]) for one in optimizer.optimizers.values()]
    row.host.update(zip(_tags("lr", tuple(optimizer.optimizers)), rates, strict=True))
    return row


def looks_at_once(trainer: Trainer) -> bool:
    """Whether somebody may look at the trainer's metrics directly after an update that is recorded.

    These are the readers of :func:`has_readers`, a progress bar, a module of the user's own, and checkpoints that have
    such a metric in their name. All others look when an epoch has ended, or a validation.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its __init__
    saving = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    return (
        has_readers(trainer)
        or trainer.progress_bar_callback is not None
        or type(trainer.lightning_module).__module__.partition(".")[0] not in _KNOWN
        or any("train/" in f"{one.filename} {one.CHECKPOINT_NAME_LAST}" for one in saving)
    )


def show(values: Mapping[str, float], trainer: Trainer, dtype: torch.dtype) -> None:
    """Give a row to the metrics that callbacks may monitor, as tensors () of a dtype, and to the progress bar."""
    tensors = torch.tensor([*values.values()], dtype=dtype).unbind()
    trainer.callback_metrics.update(zip(values, tensors, strict=True))
    trainer.progress_bar_metrics.update((name, values[tag]) for tag, name in _on_bar(tuple(values)).items())


def write(values: Mapping[str, float], trainer: Trainer) -> None:
    """Write a row to every logger, if they ask for it."""
    if _asked_for(trainer, trainer.global_step):
        row = {**values, "epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            _log(logger, row, trainer)


def _log(logger: Logger, values: Mapping[str, float], trainer: Trainer) -> None:
    """Give a row to a logger; to TensorBoard as one event that is encoded once."""
    step = trainer.global_step - 1
    if trainer.is_global_zero and type(logger) is TensorBoardLogger and not logger._prefix:
        add_row(logger.experiment.file_writer, tuple(values), [*values.values()], step)
    else:  # on other processes loggers are told too, and know what to do there
        logger.log_metrics(dict(values), step=step)


PAGES = {
    "losses": {
        "losses": [r"^train/loss/.*"],
        "validation losses": [r"^val/loss/.*"],
        "over those of constants": [r"^val/loss_normalised$"],
        "learned so far": [r"^watch/learned/.*"],
    },
    "weights": {"sigmas": [r"^train/sigma/.*"], "weights": [r"^train/weight/.*"]},
    "rates": {
        "learning rates": [r"^train/lr/.*"],
        "gradient norms": [r"^train/grad_norm/.*"],
        "update ratios": [r"^watch/update_ratio/.*"],
        "dead units": [r"^watch/dead_units/.*"],
    },
    "conflict": {
        "cosines of gradients": [r"^watch/cosine/.*"],
        "ratios of gradient norms": [r"^watch/magnitude/.*"],
        "conflicting updates": [r"^watch/conflicting_updates$"],
    },
}
"""TensorBoard's *Custom scalars*: pages, their charts, and the tags that each overlays."""


def start(trainer: Trainer, hyperparameters: Mapping[str, Any]) -> None:
    """Write TensorBoard's layout, and give the hyperparameters to the loggers.

    TensorBoard's table of runs wants the hyperparameters together with the best metrics: see :func:`finish`.
    """
    layout = {page: {title: ["Multiline", tags] for title, tags in charts.items()} for page, charts in PAGES.items()}
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars(layout)
            logger.hparams.update(hyperparameters)  # for the file `hparams.yaml`
        else:
            logger.log_hyperparams({**hyperparameters})


def finish(trainer: Trainer, hyperparameters: Mapping[str, Any], best: BestValidation) -> None:
    """Write the hyperparameters beside the best validation's metrics, for TensorBoard's table of runs."""
    last = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    step = max((best.update if best.metrics else trainer.global_step) - 1, 0)
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if isinstance(logger, TensorBoardLogger):
            write_line(logger, made_with(hyperparameters, trainer), best.metrics or last, step)
