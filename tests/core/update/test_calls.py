"""How many of Python's functions a step calls: a figure of what a step costs beside tensors, whatever else runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, MLPHead, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.core.network.fast_paths import fast_paths_allowed
from mtl_lightning.tasks import Regression
from mtl_lightning.types import Batch, TensorSpec
from tests.helpers import fit

STEPS = range(4, 9)  # that are counted: the first ones make what is kept


class Counted:
    """Hands out a batch over and over, and counts the calls of functions from one request to the next."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.calls = batch, 0

    def __len__(self) -> int:
        return STEPS.stop + 2

    def __iter__(self) -> Iterator[Batch]:
        for index in range(len(self)):
            if index == STEPS.start:
                sys.setprofile(self._count)
            if index == STEPS.stop:
                sys.setprofile(None)
            yield self.batch

    def _count(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event == "call"


def calls(module: LightningModule, tasks: int) -> float:
    """The calls of one step."""
    batches = Counted({"inputs": torch.randn(8, 4), "targets": {f"t{n}": torch.randn(8) for n in range(tasks)}})
    before = sys.getprofile()
    try:
        fit(module, batches, precision="32-true", log_every_n_steps=0)
    finally:
        sys.setprofile(before)
    return batches.calls / len(STEPS)


def ours(tasks: int) -> MultiTaskModule:
    return MultiTaskModule(
        tasks={f"t{n}": Regression() for n in range(tasks)},
        architecture=partial(SharedBottom, encoder=partial(MLP, hidden=[8, 8])),
        input_spec=TensorSpec((4,)),
        balancer=UncertaintyWeighting,
        heads={"default": partial(MLPHead, hidden=[8])},
    )


class Automatic(LightningModule):
    """The same network and losses under automatic optimization, by one fused Adam."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.network = ours(tasks)

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        outputs = self.network(batch["inputs"])
        losses = [torch.nn.functional.mse_loss(outputs[name][:, 0], t) for name, t in batch["targets"].items()]
        return self.network.balancer(torch.stack(losses))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.network.parameters(), fused=True)


@pytest.mark.skipif(not fast_paths_allowed(), reason="the fast paths are off")
def test_an_update_calls_less_than_a_step_of_lightning() -> None:
    """Although it counts labels, groups tasks and looks for gradients that are not finite: 1,025 to 1,414."""
    assert calls(ours(8), 8) <= 0.9 * calls(Automatic(8), 8)


@pytest.mark.skipif(not fast_paths_allowed(), reason="the fast paths are off")
def test_a_task_more_calls_less_than_one_of_lightning() -> None:
    """25 to 50 calls."""
    of_ours, of_theirs = (calls(make(16), 16) - calls(make(8), 8) for make in (ours, Automatic))
    assert of_ours <= 0.8 * of_theirs


def test_the_count_sees_a_call_too_many() -> None:
    class Chatty(MultiTaskModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            for _ in range(100):
                self._nothing()

        def _nothing(self) -> None: ...

    module = ours(2)
    few = calls(module, 2)
    module.__class__ = Chatty
    assert calls(module, 2) >= few + 90  # the mean differs by a few calls from run to run
