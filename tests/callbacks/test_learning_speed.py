"""How far each task has come, by hand, and which task is left behind."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import SGD

from mtl_lightning import MultiTaskModule
from mtl_lightning.callbacks import LearningSpeed
from tests.callbacks.events import said
from tests.helpers import fit, make_batches, make_module, without


class Losses(Callback):
    """The losses of every update."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        assert isinstance(pl_module, MultiTaskModule)
        self.rows.append(pl_module.updates.losses.tasks.tolist())


def test_the_decrease_is_that_of_means_by_hand() -> None:
    batches = [without(batch, "vector") if number % 3 else batch for number, batch in enumerate(make_batches(30))]
    losses = Losses()
    trainer = fit(make_module(), batches, callbacks=[losses, LearningSpeed(15)], accumulate_grad_batches=1)
    found = {t: float(v) for t, v in trainer.callback_metrics.items() if t.startswith("watch/")}
    expected = {}
    for index, name in enumerate(["number", "vector", "kind"]):
        there = [row[index] for row in losses.rows]
        first, last = ([x for x in part if x] for part in (there[:10], there[15:]))
        expected[f"watch/learned/{name}"] = 1 - (sum(last) / len(last)) / (sum(first) / len(first))
    assert found == pytest.approx(expected, rel=1e-6)


class Feign(Callback):
    """Puts made losses, over those of a constant prediction, in the place of the validation's."""

    def __init__(self, *ratios: tuple[float, float, float]) -> None:
        self.ratios = ratios

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MultiTaskModule)
        ratios = torch.tensor(self.ratios[min(trainer.current_epoch, len(self.ratios) - 1)])
        pl_module.evaluations.normalised["val"] = dict(zip(pl_module.tasks, ratios, strict=True))


def told(*ratios: tuple[float, float, float], **options: Any) -> list[str]:
    module = make_module(optimizers={"default": partial(SGD, lr=1e-4)})
    callback = LearningSpeed(2, **{"patience": 3, "after": 0, **options})
    with said() as texts:
        fit(
            module,
            make_batches(2),
            make_batches(2),
            callbacks=[Feign(*ratios), callback],
            max_epochs=max(5, len(ratios)),
        )
    return texts


def test_a_task_that_stays_behind_is_named_with_its_rate() -> None:
    (text,) = told((0.5, 1.02, 0.9))
    assert text.startswith(
        "Task vector is left behind: in epoch 2 its validation loss is 1.02 times that of a constant"
    )
    assert "lower the rate of `optimizers.vector`, now 0.0001" in text


@pytest.mark.parametrize(
    "ratios",
    [
        [(0.5, 0.97, 0.9)],  # mostly noise, but no worse than a constant
        [(0.95, 1.02, 0.93)],  # nobody is ahead
        [(0.5, 1.4 - 0.05 * epoch, 0.9) for epoch in range(8)],  # late, but coming
        [(0.5, [1.02, 1.02, 0.99][epoch % 3], 0.9) for epoch in range(9)],
    ],
)
def test_others_are_not_left_behind(ratios: list[tuple[float, float, float]]) -> None:
    assert told(*ratios) == []


def test_nor_is_a_task_that_only_overfits_or_a_run_that_has_just_begun() -> None:
    assert told((0.5, 1000.0, 0.9)) != []
    module = make_module(optimizers={"default": partial(SGD, lr=1e-4)})
    with said() as texts:  # its training loss is far below a constant's: 1.02 of it would be 10 times as much
        batches = make_batches(2)
        easy = [{**b, "targets": {**b["targets"], "vector": 0.1 * b["targets"]["vector"]}} for b in batches]
        callback = LearningSpeed(2, patience=3, after=0)
        fit(module, easy, make_batches(2), callbacks=[Feign((0.5, 1.02, 0.9)), callback], max_epochs=5)
    assert texts == []
    assert told((0.5, 1.02, 0.9), after=100) == []
    assert told((0.5, 1.02, 0.9), patience=0) == []
