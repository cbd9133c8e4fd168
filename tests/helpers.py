"""A tiny problem with three tasks, one per kind of likelihood, in the forms that tests need it in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.data import MultiTaskDataModule, Split, TaskFactory, TensorRows
from mtl_lightning.tasks import MulticlassClassification, Regression, Task
from mtl_lightning.types import Batch, TargetSpec, TensorSpec, input_spec_to_dict

INPUTS, CLASSES = 4, 4
SPECS = {"number": TargetSpec(), "vector": TargetSpec(shape=(3,)), "kind": TargetSpec(classes=CLASSES)}
FACTORIES: dict[str, TaskFactory] = {
    "number": Regression,
    "vector": partial(Regression, loss="l1"),
    "kind": MulticlassClassification,
}
NETWORK = partial(SharedBottom, encoder=partial(MLP, hidden=[8, 6], activation=nn.Tanh))


# ---------------------------------------------------------------------------------------------------------- the problem
def make_tasks(*names: str) -> dict[str, Task]:
    """``number`` (mse, Gaussian), ``vector`` of 3 (l1, Laplace), ``kind`` of 4 (softmax); all of them by default."""
    return {name: FACTORIES[name](SPECS[name]) for name in names or FACTORIES}


def make_rows(rows: int, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Inputs (N, 4) and the targets of all three tasks, float64, every label there."""
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, INPUTS, generator=random, dtype=torch.float64)
    mixed = inputs.tanh() @ torch.randn(INPUTS, CLASSES, generator=random, dtype=torch.float64)
    noise = torch.randn(rows, CLASSES, generator=random, dtype=torch.float64)
    targets = {
        "number": mixed[:, 0] + 0.3 * noise[:, 0] + 1,
        "vector": mixed[:, 1:] + 0.1 * noise[:, 1:],
        "kind": (mixed + noise).argmax(1),
    }
    return inputs, targets


def make_batches(batches: int, rows: int = 8, seed: int = 0, tasks: Sequence[str] = tuple(FACTORIES)) -> list[Batch]:
    """Cut made rows into batches that have the targets of ``tasks``."""
    inputs, targets = make_rows(batches * rows, seed)
    cuts = [slice(start, start + rows) for start in range(0, batches * rows, rows)]
    return [{"inputs": inputs[cut], "targets": {name: targets[name][cut] for name in tasks}} for cut in cuts]


def with_gaps(batches: Iterable[Batch], seed: int = 0, share: float = 0.4) -> list[Batch]:
    """Drop labels at random, entry by entry: nan in floats, -100 in integers."""
    random = torch.Generator().manual_seed(seed)

    def gappy(target: Tensor) -> Tensor:
        missing = torch.nan if target.is_floating_point() else -100
        return target.masked_fill(torch.rand(target.shape, generator=random) < share, missing)

    return [{**batch, "targets": {n: gappy(t) for n, t in batch["targets"].items()}} for batch in batches]


def without(batch: Batch, *tasks: str) -> Batch:
    """Leave some tasks out of a batch's targets."""
    return {**batch, "targets": {name: t for name, t in batch["targets"].items() if name not in tasks}}


class TinyData(MultiTaskDataModule):
    """The same problem as a datamodule of the library; the last batches of its splits are not full."""

    def __init__(self, *, batch_size: int = 8, n: int = 60, seed: int = 0, standardize: bool = False) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.sizes: dict[Split, int] = {"train": n, "val": 21, "test": 21}
        self.standardize = standardize

    def read_schema(self) -> dict[str, Any]:
        return {"input_spec": input_spec_to_dict(TensorSpec((INPUTS,)))}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        declared = {name: (SPECS[name], FACTORIES[name]) for name in FACTORIES}
        number = partial(Regression, standardize=self.standardize)
        return {**declared, "number": (SPECS["number"], number)}

    def rows(self, split: Split) -> TensorRows:
        inputs, targets = make_rows(self.sizes[split], seed=["train", "val", "test"].index(split))
        single = {name: target.float() if target.is_floating_point() else target for name, target in targets.items()}
        return TensorRows(inputs.float(), single)


class ForeignData(LightningDataModule):
    """A user's own datamodule, which knows nothing of this library but the batch contract."""

    def train_dataloader(self) -> DataLoader[Any]:
        return loader_of(make_batches(4))

    def val_dataloader(self) -> DataLoader[Any]:
        return loader_of(make_batches(2, seed=1))

    def test_dataloader(self) -> DataLoader[Any]:
        return loader_of(make_batches(2, seed=2))


def loader_of(batches: Sequence[Any]) -> DataLoader[Any]:
    """Hand out ready-made batches in their order, without touching the global random state."""
    return DataLoader(cast("Dataset[Any]", batches), batch_size=None, generator=torch.Generator())


# ------------------------------------------------------------------------------------------------------------ the model
def make_module(cls: type[MultiTaskModule] = MultiTaskModule, /, seed: int = 0, **options: Any) -> MultiTaskModule:
    """A shared bottom of two layers with a linear head per task; the same weights for the same seed."""
    torch.manual_seed(seed)
    defaults = {"tasks": make_tasks(), "architecture": NETWORK, "input_spec": TensorSpec((INPUTS,))}
    return cls(**{**defaults, **options})


def make_trainer(**options: Any) -> Trainer:
    """A trainer on the CPU, in float64, that writes nothing but what it is asked for."""
    silent: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    silent["num_sanity_val_steps"] = 0  # a quarter of a short run; tests of what it does ask for it
    silent["enable_checkpointing"] = any("Checkpoint" in type(c).__name__ for c in options.get("callbacks", []))
    return Trainer(**{"accelerator": "cpu", "devices": 1, "precision": "64-true", "max_epochs": 1, **silent, **options})


def fit(
    module: LightningModule, train: Any, val: Any = None, *, ckpt_path: str | None = None, **options: Any
) -> Trainer:
    """Train on a datamodule, on loaders, or on a list of ready-made batches."""
    trainer = make_trainer(**options)
    if isinstance(train, LightningDataModule):
        trainer.fit(module, datamodule=train, ckpt_path=ckpt_path)
    else:
        train, val = (loader_of(data) if isinstance(data, list) else data for data in (train, val))
        trainer.fit(module, train, val, ckpt_path=ckpt_path)
    return trainer


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 0.0) -> None:
    """Compare tensors by name: bit for bit, or within ``atol``."""
    assert list(found) == list(expected)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0.0, atol=atol, msg=f"{name}: {{}}".format)
