"""When a validation loss is called rising, against SciPy, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scipy.stats import kendalltau  # type: ignore[import-untyped]  # it ships no types
from torch import Tensor

from mtl_lightning.callbacks import Overfitting
from mtl_lightning.callbacks.overfitting import rises
from mtl_lightning.core.evaluation import DerivedMetrics
from tests.callbacks.events import said
from tests.helpers import TinyData, fit, make_batches, make_module


def test_the_statistic_is_that_of_kendall() -> None:
    random = torch.Generator().manual_seed(0)
    for size in (8, 12, 30):
        for trend in (0.0, 0.1, 0.3, 1.0):
            values = (torch.randn(size, generator=random) + trend * torch.arange(size)).tolist()
            order = kendalltau(range(size), values).statistic * size * (size - 1) / 2
            sigma = math.sqrt(size * (size - 1) * (2 * size + 5) / 18)
            assert rises(values) == (order - 1 > 3 * sigma)


def test_no_rise_is_seen_where_there_is_none() -> None:
    random = torch.Generator().manual_seed(1)
    assert not any(rises(torch.randn(20, generator=random).tolist()) for _ in range(300))
    assert not rises([1.0, 2, 3, 4, 5, 6])
    assert rises([1.0, 2, 3, 4, 5, 6, 7])


class Feign(DerivedMetrics):
    """Puts made losses in the place of the validation's."""

    def __init__(self, **losses: list[float]) -> None:
        self.losses = losses

    def derive(self, module: LightningModule, stage: str, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {f"val/loss/{name}": torch.tensor(made[module.current_epoch]) for name, made in self.losses.items()}


def told(losses: list[float], callback: Overfitting, **options: Any) -> list[str]:
    feign = Feign(number=losses, vector=[1.0] * len(losses), kind=[1.0 / (1 + i) for i in range(len(losses))])
    with said() as texts:
        fit(
            make_module(),
            make_batches(4),
            make_batches(1),
            callbacks=[feign, callback],
            max_epochs=len(losses),
            **options,
        )
    return texts


FALLS, UP = [3.0, 2.0, 1.0], [1.2 + 0.1 * i for i in range(8)]


def test_a_rise_is_said_once_with_its_epoch() -> None:
    (text,) = told([*FALLS, *UP, 2.5, 3.0], Overfitting())
    assert text.startswith(
        "Task number overfits since epoch 2: its validation loss was 1 then and is 1.9 now, in epoch 10"
    )
    assert "`early_stopping: 5`" in text


@pytest.mark.parametrize(
    "losses",
    [
        [*FALLS, *UP[:7]],  # too few
        [*FALLS, *[1.0 + 0.005 * i for i in range(1, 9)]],  # too little
        [*FALLS, *[1.5, 1.2] * 6],  # up and down
        [*FALLS, *UP[:7], 0.9],  # it has come down again
        [1.0 + 0.001 * i for i in range(12)],
    ],
)
def test_less_than_that_is_no_rise(losses: list[float]) -> None:
    assert told(losses, Overfitting()) == []


def test_a_training_loss_that_rises_as_well_is_no_overfitting() -> None:
    class Worsen(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            with torch.no_grad():
                for parameter in pl_module.parameters():
                    parameter.mul_(1.5)

    feign = Feign(number=[*FALLS, *UP])
    with said() as texts:
        fit(make_module(), make_batches(4), make_batches(1), callbacks=[Worsen(), feign, Overfitting()], max_epochs=11)
    assert texts == []


def test_what_is_written_is_how_far_above_the_lowest_it_is() -> None:
    feign = Feign(number=[2.0, 1.0, 1.5], vector=[1.0, 1.0, 1.0], kind=[3.0, 2.0, 1.0])
    trainer = fit(make_module(), make_batches(2), make_batches(1), callbacks=[feign, Overfitting()], max_epochs=3)
    found = {t: float(v) for t, v in trainer.callback_metrics.items() if t.startswith("watch/")}
    assert found == {"watch/overfit/number": 0.5, "watch/overfit/vector": 0.0, "watch/overfit/kind": 0.0}


def test_it_is_switched_off() -> None:
    assert told([*FALLS, *UP], Overfitting(patience=0)) == []
    trainer = fit(make_module(tasks=TinyData().tasks), TinyData(), callbacks=[Overfitting(0)])
    assert not [tag for tag in trainer.callback_metrics if tag.startswith("watch/")]
