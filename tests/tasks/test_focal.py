"""The focal loss of classes and labels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, MultilabelClassification
from mtl_lightning.types import ConfigurationError
from tests.tasks.test_yaml import parse

TASKS: list[tuple[Any, dict[str, Any], Any]] = [
    (BinaryClassification, {"pos_weight": 3.0}, lambda rows: torch.randint(0, 2, (rows,))),
    (
        MulticlassClassification,
        {"num_classes": 3, "class_weights": [1.0, 2.0, 0.5]},
        lambda n: torch.arange(n) % 5 // 2,
    ),
    (
        MultilabelClassification,
        {"num_labels": 2, "pos_weight": [3.0, 0.5]},
        lambda rows: torch.randint(0, 2, (rows, 2)),
    ),
]


def test_the_loss_by_hand() -> None:
    output = torch.tensor([[math.log(3.0)], [math.log(3.0)]])  # a probability of 3/4
    task = BinaryClassification(focal=2.0)
    expected = [-(0.25**2) * math.log(0.75), -(0.75**2) * math.log(0.25)]
    assert task.elementwise_loss(output, torch.tensor([1, 0])).tolist() == pytest.approx(expected, rel=1e-5)
    shares = torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    classes = MulticlassClassification(num_classes=3, focal=1.5, class_weights=[1.0, 2.0, 1.0])
    expected = [-2 * 0.7**1.5 * math.log(0.3), -(0.5**1.5) * math.log(0.5)]
    found = classes.elementwise_loss(shares.log(), torch.tensor([1, 2]))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", TASKS)
def test_a_gamma_of_0_is_the_cross_entropy(case: Any) -> None:
    cls, options, labels = case
    torch.manual_seed(0)
    plain, focal = cls(**options, label_smoothing=0.2), cls(**options, label_smoothing=0.2, focal=0.0)
    output, target = torch.randn(40, plain.output_size), labels(40)
    torch.testing.assert_close(focal.elementwise_loss(output, target), plain.elementwise_loss(output, target))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("case", TASKS)
def test_extreme_outputs_have_finite_losses_and_gradients(case: Any, gamma: float) -> None:
    cls, options, labels = case
    task = cls(**options, focal=gamma)
    for size in (1.0, 20.0, 100.0, 1e4, 1e30):
        output = (size * torch.randn(50, task.output_size)).requires_grad_()
        loss = task.loss(output, labels(50))
        (gradient,) = torch.autograd.grad(loss, output)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert loss >= 0


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("case", TASKS)
def test_trivial_outputs_have_the_least_loss_and_metrics_see_shares(case: Any, gamma: float) -> None:
    cls, options, labels = case
    torch.manual_seed(0)
    target, sizes = labels(200), torch.ones(200)
    plain, focal = cls(**options), cls(**options, focal=gamma)
    constant = focal.trivial_prediction(target, sizes)
    output = focal.trivial_output(constant).clone().requires_grad_()
    (slope,) = torch.autograd.grad(focal.loss(output.expand(200, -1), target) / 200, output)
    assert slope.abs().max() < 2e-4
    usual = plain.trivial_prediction(target, sizes)
    assert (constant - constant.mean() - (usual - usual.mean())).abs().max() > 1e-3 or len(constant) == 1

    def shown(task: Any, found: Tensor) -> Tensor:
        estimate: Tensor = task.estimate(task.typical_output(found)[None])
        return estimate

    torch.testing.assert_close(shown(focal, constant), shown(plain, usual), atol=1e-4, rtol=0)


def test_options() -> None:
    assert BinaryClassification(focal=2.0).batchable == BinaryClassification(focal=2.0).batchable
    assert BinaryClassification(focal=2.0).batchable != BinaryClassification().batchable
    task: Any = parse("MulticlassClassification", num_classes=3, focal=2)(None)  # type: ignore[arg-type]
    assert task.focal == 2
    with pytest.raises(
        ConfigurationError, match="MultilabelClassification: `focal`: expected a finite number of at least 0"
    ):
        MultilabelClassification(num_labels=2, focal=-1.0)
