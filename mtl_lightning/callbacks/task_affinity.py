"""Task affinity: how a step for one task changes the others' losses, and which tasks to train together."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]  # it ships no types
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.optim import Optimizer

from mtl_lightning.callbacks.diagnosis import Diagnosis, multi_task
from mtl_lightning.callbacks.run_config import run_folder
from mtl_lightning.callbacks.task_split import Matrix, best_split
from mtl_lightning.core import MultiTaskModule
from mtl_lightning.core.optim.composite import CompositeOptimizer
from mtl_lightning.core.update.figures import png
from mtl_lightning.core.update.lookahead import WindowLookahead
from mtl_lightning.types import ConfigurationError

_SIDE = 256  # pixels that the picture has at least


class TaskAffinity(Diagnosis):
    r"""Measures how a step along one task's gradient changes every task's loss, and proposes which to train together.

    `Efficiently Identifying Task Groupings for Multi-Task Learning <https://arxiv.org/abs/2109.04617>`_ (Fifty et al.
    2021). On a sampled update, with :math:`\theta` the shared weights and :math:`\theta_i` the same after a step down
    the gradient of task i's loss alone, on the update's own batch,

    .. math:: Z_{i \to j} = 1 - L_j(\theta_i) / L_j(\theta)

    is the affinity of i onto j: above 0 if i's step helps j. Its mean over all samples is :attr:`matrix`. Nothing of
    the run changes: it goes on bit for bit as without the callback.

    Written to the loggers: ``watch/affinity/<i>/<j>``, the sample's :math:`Z_{i \to j}`, and the picture
    ``watch/affinity`` of the means (white helps, black hurts, grey is 0; without the diagonal). At the end of the fit
    ``affinity.json`` and ``affinity.csv`` are written to the run's folder, and ``split.yaml``: the proposed split of
    the tasks into at most ``max_networks`` networks, as changes to the configuration, with the architecture
    :class:`~mtl_lightning.architectures.GroupedNetworks`. It is an entry of ``mtl-lightning compare``, or a second
    ``--config`` of ``fit``. :func:`~mtl_lightning.callbacks.task_split.best_split` says how the split is found.

    Departures. The paper steps by the rate times the gradient, here all steps are of one length, ``step`` times the
    norm of the shared weights: neither the scale of a loss, nor whether the rate is meant for SGD or Adam, decides
    then. And the networks it selects may overlap, where a task helps to train another network than the one that serves
    it; here a task is in one of them.

    Standardise targets: while all heads still learn an offset, their steps help or hurt each other by chance.

    A sample costs, of T tasks, T forwards and backwards of the update's window, and T + 1 forwards. Tasks without a
    label in the window, and losses that are not above 0, have no value.

    Args:
        every_n_steps: samples every update whose number this divides; 0 switches the callback off. The paper's.
        max_networks: the largest number of networks to propose.
        step: the length of a step, over the norm of the shared weights.

    Raises:
        ConfigurationError: for options out of range; at ``setup`` for a module that is no ``MultiTaskModule``; at the
            start of a fit for one that shares no trained parameter, or whose parameters are sharded.
    """

    def __init__(self, every_n_steps: int = 10, max_networks: int = 2, step: float = 1e-3) -> None:
        super().__init__(every_n_steps)
        self.max_networks, self.step = max_networks, step
        self._tasks: list[str] = []
        self._sums: list[list[float]] = []
        self._samples: list[list[int]] = []
        self._waiting: dict[str, float] = {}  # until the update's step is over

    # ------------------------------------------------------------------------------------------------------- results
    @property
    def matrix(self) -> dict[str, dict[str, float]]:
        """The mean affinity of each task (outer) onto each (inner); nan where there was no sample."""
        means = self._means().tolist()
        return {a: dict(zip(self._tasks, row, strict=True)) for a, row in zip(self._tasks, means, strict=True)}

    @property
    def split(self) -> dict[str, list[str]]:
        """The proposed networks, each with its tasks; empty before the first sample."""
        if not any(map(any, self._samples)):
            return {}
        found, _ = best_split(self._means(), self.max_networks)
        return {f"network{n}": [self._tasks[task] for task in members] for n, members in enumerate(found, 1)}

    def _means(self) -> Matrix:
        sums, samples = (np.array(part, dtype=np.float64) for part in (self._sums, self._samples))
        with np.errstate(invalid="ignore"):
            means: Matrix = sums / samples  # 0 / 0 is nan
        return means

    # --------------------------------------------------------------------------------------------------------- hooks
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules; forget an earlier fit."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._tasks = list(multi_task(pl_module, self).tasks)
            self._sums = [[0.0] * len(self._tasks) for _ in self._tasks]
            self._samples = [[0] * len(self._tasks) for _ in self._tasks]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be measured."""
        module = multi_task(pl_module, self)
        if self.every_n_steps and (not module.roles.trained[0] or module.runtime.shards_parameters):
            found = "sharded ones" if module.roles.trained[0] else "none"
            raise ConfigurationError(
                f"TaskAffinity takes steps of the shared parameters: expected trained ones that each process has "
                f"whole, found {found}. Leave the callback out, or use it with an architecture such as SharedBottom."
            )

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """On a sampled update, measure."""
        if not self.every_n_steps or (trainer.global_step + 1) % self.every_n_steps:
            return
        module = multi_task(pl_module, self)
        assert isinstance(optimizer, CompositeOptimizer)  # the module makes it, for the type checker
        lookahead = module.updates.lookahead(optimizer)
        if lookahead is None:
            return
        found = affinities(lookahead, self.step).tolist()
        values = {}
        for i, row in enumerate(found):
            for j, value in enumerate(row):
                if math.isfinite(value):
                    self._sums[i][j] += value
                    self._samples[i][j] += 1
                    values[f"watch/affinity/{self._tasks[i]}/{self._tasks[j]}"] = value
        self._waiting = values

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a sampled update, write its values."""
        values, self._waiting = self._waiting, {}
        if values:
            self.write(multi_task(pl_module, self), values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the matrix so far."""
        if any(map(any, self._samples)) and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    _draw(logger, self._means(), trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which split is proposed, and write it beside the matrix into the run's folder."""
        split = self.split
        if not split:
            return
        rank_zero_info(f"TaskAffinity proposes {len(split)} network(s): {'; '.join(map(', '.join, split.values()))}.")
        folder = trainer.strategy.broadcast(run_folder(trainer, "fit"))
        if folder is not None and trainer.is_global_zero and "://" not in str(folder):
            self._write_files(Path(folder), multi_task(pl_module, self))

    def _write_files(self, folder: Path, module: MultiTaskModule) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        cells = {a: {b: z if math.isfinite(z) else None for b, z in row.items()} for a, row in self.matrix.items()}
        samples = [dict(zip(self._tasks, row, strict=True)) for row in self._samples]
        described = {"affinity": cells, "samples": dict(zip(self._tasks, samples, strict=True)), "split": self.split}
        (folder / "affinity.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        with (folder / "affinity.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["of", "onto", "affinity", "samples"])
            for i, a in enumerate(self._tasks):
                writer.writerows([a, b, cells[a][b], self._samples[i][j]] for j, b in enumerate(self._tasks))
        (folder / "split.yaml").write_text(changes(self.split, module.config.get("architecture")), encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know to go on as if it had not been interrupted."""
        return {"sums": [list(row) for row in self._sums], "samples": [list(row) for row in self._samples]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of an interrupted run, unless its tasks were others."""
        if not self._tasks or len(state_dict["sums"]) == len(self._tasks):
            self._sums = [list(row) for row in state_dict["sums"]]
            self._samples = [list(row) for row in state_dict["samples"]]


def affinities(lookahead: WindowLookahead, step: float) -> Tensor:
    """Return the affinity (T, T) of each task's step (row) onto each task's loss; nan where there is none.

    Args:
        lookahead: on the window of an update.
        step: the length of each step over the norm of the shared weights.
    """
    network, window = lookahead.network, lookahead.parts[0]
    number, shared = len(network.tasks), len(network.roles.trained[0])
    weights = lookahead.parameters[:shared]
    length = step * torch.stack(torch._foreach_norm([weight.detach().float() for weight in weights])).norm()
    before = lookahead.losses_at([torch.zeros_like(p) for p in lookahead.parameters], 0)
    known = window.present & (before > 0)
    rows = []
    for task in range(number):
        row = torch.full_like(before, torch.nan)
        if task in window.present_indices:
            one = torch.zeros_like(before)
            one[task] = 1.0
            gradient = lookahead.gradient_of(one, 0)
            norm = torch.stack(torch._foreach_norm([part.float() for part in gradient[:shared]])).norm()
            factor = torch.where(norm > 0, -length / norm, 0.0)
            shift = [part * factor.to(part.dtype) if n < shared else part * 0 for n, part in enumerate(gradient)]
            after = lookahead.losses_at(shift, 0)
            row = torch.where(known, 1 - after / before, torch.nan)
        rows.append(row)
    return torch.stack(rows)


def changes(split: Mapping[str, list[str]], architecture: Any) -> str:
    """Return a proposed split as YAML: changes to a configuration that give each group of tasks a network.

    Args:
        split: the tasks by network.
        architecture: the present one, as plain data, whose encoder is kept; None if code has made it.
    """
    arguments: dict[str, Any] = {"groups": {name: list(tasks) for name, tasks in split.items()}}
    note = "# Proposed by TaskAffinity: an entry of `mtl-lightning compare`, or a further --config of `fit`.\n"
    encoder = _encoder_of(architecture)
    if encoder is None:
        note += "# Name the encoder: groups get MLPs otherwise.\n"
    else:
        arguments["encoder"] = encoder
    part = {"class_path": "mtl_lightning.architectures.GroupedNetworks", "init_args": arguments}
    return note + str(yaml.safe_dump({"model": {"architecture": part}}, sort_keys=False))


def _encoder_of(architecture: Any) -> Any:
    """Return the encoder that is an argument of an architecture, or of one inside it."""
    arguments = architecture.get("init_args") or {} if isinstance(architecture, Mapping) else {}
    return arguments.get("encoder") or (_encoder_of(arguments["architecture"]) if "architecture" in arguments else None)


def _draw(logger: TensorBoardLogger, means: Matrix, step: int) -> None:
    """Draw a matrix (T, T): grey is 0, white the largest value off the diagonal, black as far below 0."""
    off = np.where(np.eye(len(means), dtype=bool), 0.0, np.nan_to_num(means))
    grey = (127.5 * (1 + off / max(float(np.abs(off).max()), 1e-12))).round().astype(np.uint8)
    each = max(1, -(-_SIDE // len(grey)))
    picture = np.ascontiguousarray(grey.repeat(each, 0).repeat(each, 1))
    height, width = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=1, encoded_image_string=png(picture))
    logger.experiment.file_writer.add_summary(Summary(value=[Summary.Value(tag="watch/affinity", image=image)]), step)
