"""What the base class does for a task of the user's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mtl_lightning.tasks import Task
from mtl_lightning.tasks.base import MetricFactories
from mtl_lightning.tasks.likelihoods import GAUSSIAN
from mtl_lightning.types import TargetError, TargetSpec


class Shifted(Task):
    """The smallest task: targets (B,) that must not be negative; its loss forgets not to reduce if told to."""

    def __init__(self, spec: TargetSpec, *, reduces: bool = False) -> None:
        super().__init__(spec, output_size=1, estimate_size=1, likelihood=GAUSSIAN)
        self.reduces = reduces

    def labelled(self, target: Tensor) -> Tensor:
        return ~target.isnan()

    def invalid(self, target: Tensor) -> Tensor:
        return (target < 0).any()

    def check(self, target: Tensor) -> None:
        if self.invalid(target):
            raise TargetError("negative")

    def elementwise_loss(self, output: Tensor, target: Tensor) -> Tensor:
        losses = (output[:, 0] - target.nan_to_num()).abs()
        return losses.mean() if self.reduces else losses

    def predict(self, output: Tensor) -> Tensor:
        return output[:, 0]

    def estimate(self, output: Tensor) -> Tensor:
        return output

    def default_metrics(self) -> MetricFactories:
        return {}

    def update(self, metrics: MetricCollection, output: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        metrics.update(self.predict(output), target)


def test_masks_counts_and_sums() -> None:
    task, output = Shifted(TargetSpec()), torch.zeros(4, 1, requires_grad=True)
    target = torch.tensor([1.0, float("nan"), 3.0, 5.0])
    assert task.count(target).item() == 3
    assert task.loss(output, target).item() == 9.0
    weight = torch.tensor([1.0, 100.0, 0.5, 2.0])
    assert task.count(target, weight).item() == 3.5
    assert task.loss(output, target, weight).item() == 12.5


def test_an_invalid_value_makes_the_count_nan() -> None:
    assert Shifted(TargetSpec()).count(torch.tensor([1.0, -1.0])).isnan()


def test_a_loss_that_reduces_is_refused() -> None:
    with pytest.raises(TargetError, match=r"one loss per element, shape \(2,\), found \(\); .* must not reduce"):
        Shifted(TargetSpec(), reduces=True).loss(torch.zeros(2, 1), torch.ones(2))


def test_has_nothing_to_fit_and_the_units_of_its_target() -> None:
    task = Shifted(TargetSpec())
    task.fit_target(torch.ones(3))
    assert task.fitted
    assert task.target_scale == 1.0
