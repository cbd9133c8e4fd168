"""The runs whose checkpoints are kept here: tiny networks, with public names alone.

They are built by today's code, so that a checkpoint of an older one meets what a user has who has upgraded since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchjd.aggregation as aggregation
import torchjd.scalarization as scalarization
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from mtl_lightning import MultiTaskModule, Schedule
from mtl_lightning.architectures import MLP, LearningToBranch, SharedBottom, TabularEncoder
from mtl_lightning.balancing import (
    DWA,
    AutoLambda,
    Balancer,
    GradVac,
    MoCo,
    PCGrad,
    RandomWeighting,
    UncertaintyWeighting,
)
from mtl_lightning.data import PerTaskData, Streaming, SyntheticRegression, TableData, TemperatureSampling

FOLDER = Path(__file__).parent
NOISY = partial(SharedBottom, encoder=partial(MLP, hidden=[6, 4], dropout=0.3))
INPUTS = torch.linspace(-2, 2, 7).unsqueeze(1)
"""What the stored predictions are of, (7, 1), where the data has no predict rows of its own."""


def lines(**options: Any) -> SyntheticRegression:
    """Three lines with noise; 8 batches, the last of them half full."""
    lists = {"slopes": [1.0, -1.0, 0.5], "intercepts": [0.0, 1.0, -1.0], "noise": [0.5, 0.2, 0.1]}
    return SyntheticRegression(**{"n": 60, "n_val": 20, "n_test": 7, "batch_size": 8, "seed": 0, **lists, **options})


def table(**options: Any) -> TableData:
    """48 rows with a number, a category and gaps; a price, yes or no, and a kind of three. Its files are copied."""
    files = {"train": "train.csv", "val": "val.csv", "test": "val.csv", "predict": "val.csv"}
    return TableData(**{**files, "targets": ["price", "sold", "kind"], "batch_size": 8, **options})


def streamed() -> TableData:
    """The training rows as Parquet, read while they are trained on, and validated and predicted too."""
    files = dict.fromkeys(["train", "val", "test", "predict"], "train.parquet")
    return table(**files, stream=Streaming(buffer_rows=16))


def per_task() -> PerTaskData:
    """Two datasets that take turns by chance: y1, y2, y3 of each."""
    return PerTaskData(
        {"near": lines(), "far": lines(seed=1, n=100)}, sampling=TemperatureSampling(2.0), steps_per_epoch=9
    )


@dataclass(frozen=True)
class Case:
    """A run that was interrupted.

    Attributes:
        balancer: the module's.
        batch: the training batch, counted from 1, after which its checkpoint was written.
        model: further arguments of the module.
        data: makes its data.
        trainer: arguments of the trainer.
        resumes: whether its resumed run ends with the stored weights; the others are loaded only.
        processes: how many of them trained.
    """

    balancer: Any = Balancer
    batch: int = 11
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Callable[[], LightningDataModule] = lines
    trainer: Mapping[str, Any] = field(default_factory=dict)
    resumes: bool = True
    processes: int = 1


SCHEDULED: dict[str, Any] = {
    "reads": {"y3": ["y1"]},
    "optimizers": {
        "shared": partial(SGD, lr=0.05, momentum=0.9),
        "y1": partial(Adam, lr=0.02),
        "balancer": partial(Adam, lr=0.01),
        "default": partial(AdamW, lr=0.01),
    },
    "schedulers": {
        "y1": Schedule(partial(ReduceLROnPlateau, patience=0, factor=0.5, threshold=0.2), monitor="val/loss"),
        "y2": Schedule(partial(StepLR, step_size=2, gamma=0.7), interval="step", warmup=4),
        "y3": partial(StepLR, step_size=1, gamma=0.7),
    },
}
TABULAR = {"architecture": partial(SharedBottom, encoder=partial(TabularEncoder, hidden=[6]))}

CASES: dict[str, Case] = {
    "uncertainty": Case(
        partial(UncertaintyWeighting, init="first_batch"), 18, SCHEDULED, trainer={"accumulate_grad_batches": 3}
    ),
    "dwa": Case(DWA, 21),
    "random_weighting": Case(RandomWeighting),
    "pcgrad": Case(PCGrad),
    "moco": Case(MoCo),
    "gradvac": Case(GradVac, model={"groups": {"first": ["architecture.encoder.stages.0.*"]}}),
    "auto_lambda": Case(AutoLambda),
    "torchjd_aggregator": Case(aggregation.PCD, 9),
    "torchjd_scalarizer": Case(scalarization.DWA, 21),
    "torchjd_learned": Case(scalarization.UW),
    "learning_to_branch": Case(
        model={
            "architecture": partial(LearningToBranch, encoder=partial(MLP, hidden=[6, 4]), warmup=4, period=4),
            "optimizers": {"default": partial(Adam, lr=0.05)},
        },
        resumes=False,
    ),
    "table": Case(UncertaintyWeighting, 8, TABULAR, table),
    "streamed": Case(Balancer, 8, TABULAR, streamed, {"accumulate_grad_batches": 3}),
    "per_task": Case(PCGrad, 12, {}, per_task),
    "two_processes": Case(RandomWeighting, 4, {}, lines, resumes=False, processes=2),
}
EPOCHS = 4
OF_TABLES = ("table", "streamed")


def make_module(case: Case, data: Any, seed: int = 0) -> MultiTaskModule:
    """Build a case's module, with other first weights for another seed."""
    torch.manual_seed(seed)
    optimizers = {"default": partial(Adam, lr=0.01)}
    defaults = {"architecture": NOISY, "optimizers": optimizers, "balancer": case.balancer}
    return MultiTaskModule(**{**defaults, **case.model, "tasks": data.tasks, "input_spec": data.input_spec})


def make_trainer(case: Case, **options: Any) -> Trainer:
    """A trainer on the CPU that writes nothing by itself."""
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    plain = {"accelerator": "cpu", "devices": 1, "max_epochs": EPOCHS, "enable_checkpointing": False}
    return Trainer(**{**silent, **plain, **case.trainer, **options})


def predictions(module: MultiTaskModule, data: Any) -> list[dict[str, Any]]:
    """Predict a table's own rows, or :data:`INPUTS`: each task's values, batch by batch."""
    if isinstance(data, TableData):
        predicted: Any = make_trainer(Case()).predict(module, datamodule=data)
        return [dict(batch) for batch in predicted]
    with torch.no_grad():
        return [module.eval().predict_step({"inputs": INPUTS}, 0)]


def tensors_of(predicted: Any) -> list[Tensor]:
    """Return the tensors of nested predictions in their order."""
    if isinstance(predicted, Tensor):
        return [predicted]
    parts = predicted.values() if isinstance(predicted, Mapping) else predicted
    return [tensor for part in parts for tensor in tensors_of(part)]
