"""Runs that are watched by every diagnosing callback, on a small problem into which faults can be planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.callbacks import (
    Conflict,
    DeadUnits,
    GateUse,
    LearningSpeed,
    Overfitting,
    UnsettledSigma,
    UpdateRatio,
)
from mtl_lightning.callbacks.diagnosis import Diagnosis
from mtl_lightning.data import MultiTaskDataModule, Split, TaskFactory, TensorRows
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import TargetSpec, TensorSpec, input_spec_to_dict
from tests.callbacks.events import said
from tests.helpers import make_module, make_trainer

WATCHING: tuple[Callable[[], Diagnosis], ...] = (
    DeadUnits,
    UpdateRatio,
    Conflict,
    LearningSpeed,
    Overfitting,
    UnsettledSigma,
    GateUse,
)
SHARED = partial(SharedBottom, encoder=partial(MLP, hidden=[32, 16]))
INPUTS, CLASSES = 8, 4


class Related(MultiTaskDataModule):
    """Tasks ``a``, ``b``, ...: functions of the same hidden features of eight inputs, with noise; 20 batches of 50.

    Args:
        kinds: of each task, ``number`` or ``kind``.
        n: rows for training.
        scale: of the labels of ``a``.
        opposed: whether those of ``b`` are those of ``a`` with the other sign.
        noise: standard deviation, where the signal's is near to 1.
    """

    def __init__(
        self,
        kinds: Sequence[str] = ("number", "number"),
        *,
        n: int = 1000,
        batch_size: int = 50,
        scale: float = 1.0,
        opposed: bool = False,
        noise: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.kinds = dict(zip("abcdef", kinds, strict=False))
        self.sizes: dict[Split, int] = {"train": n, "val": 200, "test": 50}
        self.scale, self.opposed, self.noise = scale, opposed, noise

    def read_schema(self) -> dict[str, Any]:
        return {"input_spec": input_spec_to_dict(TensorSpec((INPUTS,)))}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        made: dict[str, tuple[TargetSpec, TaskFactory]] = {
            "number": (TargetSpec(), Regression),
            "kind": (TargetSpec(classes=CLASSES), MulticlassClassification),
        }
        return {name: made[kind] for name, kind in self.kinds.items()}

    def rows(self, split: Split) -> TensorRows:
        problem, random = torch.Generator().manual_seed(99), torch.Generator().manual_seed(len(split) + 10 * self.seed)
        inputs = torch.randn(self.sizes[split], INPUTS, generator=random)
        hidden = (inputs @ torch.randn(INPUTS, 16, generator=problem) / 2).tanh()
        targets: dict[str, Tensor] = {}
        for name, kind in self.kinds.items():
            signal = hidden @ torch.randn(16, CLASSES, generator=problem) / 4
            noisy = signal + self.noise * torch.randn(signal.shape, generator=random)
            targets[name] = noisy[:, 0] if kind == "number" else noisy.argmax(1)
        targets["a"] = targets["a"] * self.scale if self.kinds["a"] == "number" else targets["a"]
        return TensorRows(inputs, targets | {"b": -targets["a"]} if self.opposed else targets)


class OneOutput(nn.Module):
    """A network that has to give the tasks ``a`` and ``b`` the same output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        output = self.layers(inputs)
        return {"a": output, "b": output * 1.0}


def watched(
    data: Related, epochs: int, *, plant: Callable[[MultiTaskModule], None] | None = None, **options: Any
) -> tuple[dict[str, list[str]], list[str], Trainer]:
    """Train with every diagnosing callback; return what each one that has warned was about, the texts, the trainer."""
    module = make_module(**{"tasks": data.tasks, "input_spec": data.input_spec, "architecture": SHARED, **options})
    if plant is not None:
        with torch.no_grad():
            plant(module)
    callbacks = [make() for make in WATCHING]
    with said() as texts:
        trainer = make_trainer(max_epochs=epochs, precision="32-true", callbacks=[*callbacks])
        trainer.fit(module, data)
    return {type(one).__name__: sorted(one.warned) for one in callbacks if one.warned}, texts, trainer
