"""What is written during training, and when: one row per recorded update, moved to the host in one transfer.

``self.log`` costs about 0.4 ms per scalar and call; these values stay tensors on the device and are written by the
loggers directly, on the steps that the trainer's ``log_every_n_steps`` asks for. Update n is written at step n - 1,
as Lightning does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from mtl_lightning.core.checkpoint import describe_arguments
from mtl_lightning.core.losses import Losses
from mtl_lightning.core.sharding import norms

if TYPE_CHECKING:
    from mtl_lightning.core.module import MultiTaskModule


class Row:
    """Named scalars of one update: tensors on the device until :meth:`values` brings all of them over at once."""

    def __init__(self) -> None:
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


def due(module: MultiTaskModule) -> bool:
    """Whether the loggers want the update that is being made."""
    return _asked_for(module, module.trainer.global_step + 1)


def _asked_for(module: MultiTaskModule, update: int) -> bool:
    every: int = module.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside Trainer.__init__
    return every > 0 and (update % every == 0 or module.trainer.should_stop)  # as Lightning, all of the last steps


def collect(module: MultiTaskModule, seen: Losses, counts: Mapping[str, float]) -> Row | None:
    """Take the row of an update before its step, so that losses, weights and sigmas belong together.

    None on steps that nobody asks for.
    """
    if not (due(module) or module.trainer.is_last_batch):
        return None
    row = Row()
    totals = module.all_sum(torch.cat([seen.tasks, seen.objective.reshape(1) / module.world_size]))
    names = [name for name, count in counts.items() if count]
    here: Any = slice(0, len(names))
    if len(names) < len(counts):
        here = [index for index, count in enumerate(counts.values()) if count]
    row.add(["train/loss"], totals[-1])
    row.add([f"train/loss/{name}" for name in names], totals[here])
    if seen.weights is not None:
        row.add([f"train/weight/{name}" for name in names], seen.weights[here])
    sigmas = module.balancer.sigmas()
    if sigmas is not None:
        row.add([f"train/sigma/{name}" for name in counts], sigmas)
    for name, value in seen.aux.items():
        row.add([f"train/aux/{name}"], value)
    row.host.update((f"train/labels/{name}", count) for name, count in counts.items())  # on the host already
    for name, optimizer in module.group_optimizers.items():
        row.host[f"train/lr/{name}"] = float(optimizer.param_groups[0]["lr"])
    return row


def write(module: MultiTaskModule, row: Row | None) -> None:
    """Write a row to every logger, to the progress bar, and to the metrics that callbacks may monitor."""
    if row is None:
        return
    values, trainer = row.values(), module.trainer
    trainer.callback_metrics.update(zip(values, torch.tensor([*values.values()]).unbind(), strict=True))
    bar = {name.removeprefix("train/"): value for name, value in values.items() if name.startswith("train/loss")}
    trainer.progress_bar_metrics.update(bar)
    if _asked_for(module, trainer.global_step):
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


def start(module: MultiTaskModule) -> None:
    """Write TensorBoard's layout, all tasks' losses in one chart and all sigmas in another; hyperparameters elsewhere.

    TensorBoard's table of runs wants the hyperparameters together with the final metrics: see :func:`finish`.
    """
    charts = {
        "losses": ["Multiline", [r"^train/loss/.*"]],
        "sigmas": ["Multiline", [r"^train/sigma/.*"]],
        "weights": ["Multiline", [r"^train/weight/.*"]],
        "validation losses": ["Multiline", [r"^val/loss/.*"]],
    }
    for logger in module.trainer.loggers if module.trainer.is_global_zero else []:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars({"tasks": charts})
        else:
            logger.log_hyperparams(hyperparameters(module))


def finish(module: MultiTaskModule) -> None:
    """Write the hyperparameters beside the last validation's metrics, for TensorBoard's table of runs."""
    final = {
        f"hp/{name}": float(value) for name, value in module.trainer.callback_metrics.items() if name.startswith("val/")
    }
    for logger in module.trainer.loggers if module.trainer.is_global_zero else []:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(hyperparameters(module), final)


def hyperparameters(module: MultiTaskModule) -> dict[str, Any]:
    """Return what made the module and its data, as far as it is plain data, nested."""
    data, _ = describe_arguments({"data": getattr(module.trainer, "datamodule", None)})
    return {"model": dict(module.hparams_initial), **{key: value for key, value in data.items() if value}}
