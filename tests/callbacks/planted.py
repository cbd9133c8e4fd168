"""Six regressions in two planted groups: all tasks of one read the same hidden quantity, those of the other another."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.data import MultiTaskDataModule, Split, TaskFactory, TensorRows
from mtl_lightning.tasks import Regression
from mtl_lightning.types import TargetSpec, TensorSpec, input_spec_to_dict

INPUTS = 12
GROUPS = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
NAMES = ["b1", "a0", "a2", "b0", "a1", "b2"]  # in no order


class PlantedGroups(MultiTaskDataModule):
    """A group's quantity is a sum of waves of two directions of the input; tasks differ in scale and noise."""

    def read_schema(self) -> dict[str, Any]:
        return {"input_spec": input_spec_to_dict(TensorSpec((INPUTS,)))}

    def declared_tasks(self) -> dict[str, tuple[TargetSpec, TaskFactory]]:
        return {name: (TargetSpec(), Regression) for name in NAMES}

    def rows(self, split: Split) -> TensorRows:
        fixed = torch.Generator().manual_seed(self.seed)
        directions, _ = torch.linalg.qr(torch.randn(INPUTS, 4, generator=fixed))
        random = torch.Generator().manual_seed(1000 * self.seed + ["train", "val", "test"].index(split) + 1)
        x = torch.randn({"train": 1024}.get(split, 512), INPUTS, generator=random)
        waves = (x @ directions).sin()
        targets = {}
        for name in sorted(NAMES):
            quantity = waves[:, :2].sum(1) if name[0] == "a" else waves[:, 2:].sum(1)
            scale = 1 + torch.rand((), generator=fixed)
            targets[name] = scale * quantity + 0.3 * torch.randn(len(x), generator=random)
        return TensorRows(x, targets)


def planted(seed: int = 0, architecture: Any = SharedBottom, **options: Any) -> tuple[MultiTaskModule, PlantedGroups]:
    """A narrow network, in which there is room for one group's quantity, and its data."""
    data = PlantedGroups(batch_size=64, seed=seed)
    torch.manual_seed(seed)
    encoder = partial(MLP, hidden=[9], activation=nn.Tanh)
    module = MultiTaskModule(
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=partial(architecture, encoder=encoder, **options),
        optimizers={"default": partial(torch.optim.Adam, lr=1e-2)},
    )
    return module, data
