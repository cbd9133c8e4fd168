"""Networks to export: tables, pictures, dicts, and parts of a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mtl_lightning import Network
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.tasks import (
    BinaryClassification,
    DepthEstimation,
    MulticlassClassification,
    MultilabelClassification,
    Regression,
    SemanticSegmentation,
    SurfaceNormals,
    Task,
)
from mtl_lightning.types import InputSpec, TableSpec, TargetSpec, TensorSpec

TABLE = TableSpec(("age", "hours", "gain"), {"work": 9, "education.years": 4})
SMALL = partial(TabularEncoder, hidden=(8, 6))


def row_tasks() -> dict[str, Task]:
    """A price, a time that float32 would round, yes or no, one of three."""
    price, when = (Regression(TargetSpec(units="EUR"), standardize=True) for _ in range(2))
    price.fit_target(torch.tensor([100.0, 300.0]))
    when.fit_target(torch.tensor([1.6e9, 1.6e9 + 200.0], dtype=torch.float64))
    kind = MulticlassClassification(TargetSpec(classes=3, names=("flat", "house", "boat")))
    return {"price": price, "when": when, "sold": BinaryClassification(TargetSpec()), "kind": kind}


def two_tasks() -> dict[str, Task]:
    """A price, and yes or no."""
    return {name: task for name, task in row_tasks().items() if name in ("price", "sold")}


def yes_or_no() -> dict[str, Task]:
    """Three of one kind, which every architecture takes."""
    return {name: BinaryClassification(TargetSpec()) for name in "abc"}


def maps(size: tuple[int, int]) -> dict[str, Task]:
    """Depths, classes and normals of pixels."""
    depth = DepthEstimation(TargetSpec(shape=size))
    segments = SemanticSegmentation(TargetSpec(shape=size, classes=3))
    return {"a": depth, "b": segments, "c": SurfaceNormals(TargetSpec(shape=(3, *size)))}


def network(
    tasks: Mapping[str, Task], architecture: Any, spec: InputSpec | None, seed: int = 0, **options: Any
) -> Network:
    """A network with random weights, those of code 0 and of normalisation included, and statistics of batches."""
    torch.manual_seed(seed)
    made = Network(tasks, architecture, spec, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2.0)
    return made


def on_a_table(architecture: Any = None, tasks: Mapping[str, Task] | None = None, **options: Any) -> Network:
    """Tasks on a table, four by default."""
    return network(tasks or row_tasks(), architecture or partial(SharedBottom, encoder=SMALL), TABLE, **options)


class TwoInputs(nn.Module):
    """A user's encoder of a dict: a picture of any size and some words by number."""

    out_features = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.words = nn.Conv2d(3, 4, 3), nn.Embedding(20, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        seen = self.picture(inputs["picture"]).relu().mean((2, 3))
        return torch.cat([seen, self.words(inputs["words"]).mean(1)], dim=1)


TWO_INPUTS: dict[str, TensorSpec] = {"picture": TensorSpec((3, None, None)), "words": TensorSpec((5,), "int64")}


class Tags(MultilabelClassification):
    """A user's task, which gives more than the library's."""

    def predict(self, output: Tensor) -> dict[str, Tensor]:
        return {**super().predict(output), "logits": output}
