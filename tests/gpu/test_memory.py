"""A gradient method keeps no more than a gradient of the shared parameters for each task, beside equal weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import MGDA, Balancer, UPGrad
from mtl_lightning.tasks import Regression, Task
from mtl_lightning.types import Batch, TensorSpec
from tests.gpu.training import peak_growth
from tests.helpers import fit

TASKS, WIDTH = 6, 256
BATCHES: list[Batch] = [
    {"inputs": torch.randn(16, WIDTH), "targets": {f"t{index}": torch.randn(16) for index in range(TASKS)}}
    for _ in range(4)
]


def growth(device: str, balancer: Any) -> tuple[int, int]:
    """The peak of a run over what was there before it, and the shared parameters, in bytes."""
    tasks: dict[str, Task] = {name: Regression() for name in BATCHES[0]["targets"]}
    shared = partial(SharedBottom, encoder=partial(MLP, hidden=[WIDTH] * 4))
    module = MultiTaskModule(tasks, shared, TensorSpec((WIDTH,)), balancer)
    size = sum(4 * parameter.numel() for parameter in module.architecture.parameters())
    options: dict[str, Any] = {"accelerator": device, "precision": "32-true", "log_every_n_steps": 0}
    return peak_growth(device, lambda: fit(module, BATCHES, **options)), size


@pytest.mark.parametrize("balancer", [UPGrad, MGDA], ids=lambda cls: cls.__name__)
def test_peak_of_a_gradient_method(balancer: Any, device: str) -> None:
    equal, shared = growth(device, Balancer)
    found, _ = growth(device, balancer)
    assert equal >= 3 * shared  # gradients, and two moments of Adam; on a GPU the weights, too
    assert found <= equal + 1.2 * (TASKS + 1) * shared


def test_features_take_no_rows_of_parameters(device: str) -> None:
    equal, shared = growth(device, Balancer)
    found, _ = growth(device, partial(MGDA, level="features"))
    assert found <= equal + 2 * shared
