"""What is written during training, and when: one row per recorded update, moved to the host in one transfer.

``self.log`` costs about 0.4 ms per scalar and call; these values stay tensors on the device and are written by the
loggers directly, on the steps that the trainer's ``log_every_n_steps`` asks for. Update n is written at step n - 1,
as Lightning does. Where somebody reads metrics of training between these steps, every update's are brought over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from mtl_lightning.core.network.network import Network
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.optim.schedules import CompositeScheduler
from mtl_lightning.core.runtime import Runtime
from mtl_lightning.core.sharding import norms
from mtl_lightning.core.update.best_validation import BestValidation
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
        self._norm_tensor: Tensor | None = None
        self.host: dict[str, float] = {}

    def add(self, names: list[str], values: Tensor) -> None:
        """Add scalars () or a vector with a name for each entry."""
        self._names += names
        self._tensors.append(values.detach().reshape(-1))

    def add_norms(self, groups: Mapping[str, list[Tensor]]) -> Tensor | None:
        """Add the gradient norm of each group that has a gradient; return those of the tensors (N,), if there are any.

        They are put together on the host.
        """
        self._norms = [(f"train/grad_norm/{name}", len(grads)) for name, grads in groups.items() if grads]
        if self._norms:
            self._norm_tensor = norms([grad for grads in groups.values() for grad in grads])
        return self._norm_tensor

    def values(self) -> dict[str, float]:
        """Return all scalars by name; the one transfer."""
        parts = self._tensors if self._norm_tensor is None else [*self._tensors, self._norm_tensor]
        flat: list[float] = torch.cat(parts).tolist()
        found = dict(zip(self._names, flat[: len(self._names)], strict=True))
        rest = iter(flat[len(self._names) :])
        for name, number in self._norms:
            found[name] = math.hypot(*(next(rest) for _ in range(number)))
        return {**found, **self.host}


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
    totals = runtime.all_sum(torch.cat([losses.tasks, losses.objective.reshape(1) / runtime.world_size]))
    row = Row(totals[:-1])
    names = window.names
    present: Any = slice(0, len(names)) if len(names) == len(window.counts) else window.present_indices
    row.add(["train/loss"], totals[-1])
    row.add([f"train/loss/{name}" for name in names], totals[present])
    if losses.weights is not None:
        row.add([f"train/weight/{name}" for name in names], losses.weights[present])
    sigmas = network.balancer.sigmas()
    if sigmas is not None:
        row.add([f"train/sigma/{name}" for name in window.counts], sigmas)
    for name, value in losses.aux.items():
        row.add([f"train/aux/{name}"], value)
    row.host.update((f"train/labels/{name}", count) for name, count in window.counts.items())  # on the host already
    for name, one in optimizer.optimizers.items():
        row.host[f"train/lr/{name}"] = float(one.param_groups[0]["lr"])
    return row


def write(row: Row, trainer: Trainer) -> None:
    """Write a row to every logger, to the progress bar, and to the metrics that callbacks may monitor."""
    values = row.values()
    trainer.callback_metrics.update(zip(values, torch.tensor([*values.values()]).unbind(), strict=True))
    bar = {name.removeprefix("train/"): value for name, value in values.items() if name.startswith("train/loss")}
    trainer.progress_bar_metrics.update(bar)
    if _asked_for(trainer, trainer.global_step):
        for logger in trainer.loggers:
            _log(logger, {**values, "epoch": trainer.current_epoch}, trainer)


def _log(logger: Logger, values: Mapping[str, float], trainer: Trainer) -> None:
    """Give a row to a logger; to TensorBoard as one event, since each costs a checksum and a switch of threads."""
    step = trainer.global_step - 1
    if trainer.is_global_zero and type(logger) is TensorBoardLogger and not logger._prefix:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        logger.experiment.file_writer.add_summary(summary, step)
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
