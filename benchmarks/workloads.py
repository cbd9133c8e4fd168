"""The problems that steps are timed on: random data in memory, every label there, networks from the library's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_lightning.architectures import MLP, Encoder, Head, LeNet, Linear, MLPHead
from mtl_lightning.tasks import MulticlassClassification, Regression, Task
from mtl_lightning.types import Batch, InputSpec, TargetSpec, TensorSpec

BATCHES = 4


@dataclass(frozen=True)
class Workload:
    """A problem of T equal tasks.

    Args:
        input_shape: of one row.
        rows: B, the rows of a batch.
        num_tasks: T.
        encoder: makes the shared trunk from the input's spec.
        head: makes each task's head from (feature size without B, K).
        classes: of each task's label; None makes the tasks regressions of one number a row.
    """

    input_shape: tuple[int, ...]
    rows: int
    num_tasks: int
    encoder: Callable[[InputSpec], Encoder]
    head: Callable[[tuple[int, ...], int], Head]
    classes: int | None = None

    @property
    def spec(self) -> TensorSpec:
        """The input's spec."""
        return TensorSpec(self.input_shape)

    def tasks(self) -> dict[str, Task]:
        """Make the tasks, by name."""
        task = Regression if self.classes is None else MulticlassClassification
        return {f"t{index}": task(TargetSpec(classes=self.classes)) for index in range(self.num_tasks)}

    def batches(self) -> list[Batch]:
        """Make the batches: inputs (B, *) and a target (B,) per task."""
        random = torch.Generator().manual_seed(0)

        def target() -> Tensor:
            if self.classes is None:
                return torch.randn(self.rows, generator=random)
            return torch.randint(self.classes, (self.rows,), generator=random)

        return [
            {
                "inputs": torch.randn(self.rows, *self.input_shape, generator=random),
                "targets": {name: target() for name in self.tasks()},
            }
            for _ in range(BATCHES)
        ]

    def network(self) -> Network:
        """Make the network, as someone without this library would write it."""
        return Network(self)

    def losses(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> list[Tensor]:
        """Map outputs (B, K) and targets (B,) to each task's mean loss (), written by hand."""
        if self.classes is None:
            return [F.mse_loss(outputs[name][:, 0], target) for name, target in targets.items()]
        return [F.cross_entropy(outputs[name], target) for name, target in targets.items()]


class Network(nn.Module):
    """A trunk and a head per task."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.trunk = workload.encoder(workload.spec)
        heads = {name: workload.head(self.trunk.out_features, workload.classes or 1) for name in workload.tasks()}
        self.heads = cast("Mapping[str, nn.Module]", nn.ModuleDict(heads))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Map inputs (B, *) to each task's outputs (B, K)."""
        features = self.trunk(inputs)
        return {name: head(features) for name, head in self.heads.items()}


def table(num_tasks: int) -> Workload:
    """Return W1 with so many tasks."""
    return Workload((64,), 512, num_tasks, partial(MLP, hidden=[256, 256]), partial(MLPHead, hidden=[64]))


WORKLOADS: dict[str, Workload] = {
    "W1_T8": table(8),
    "W1_T32": table(32),
    "W2": Workload((1, 36, 36), 256, 2, partial(LeNet, channels=(10, 20), width=50), Linear, classes=10),
    "W3": Workload((64,), 256, 3, partial(MLP, hidden=[1024] * 4), partial(MLPHead, hidden=[64])),
}
"""W1: a table, a trunk of 256-256, heads of 64; W2: pictures of two digits, the small LeNet of the multi-task
literature (10 and 20 maps, 50 features; a larger one would hide what a step costs besides); W3: a wide trunk."""
