"""The constants that predict training labels best: each by hand, and none better nearby."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.tasks import (
    BinaryClassification,
    DepthEstimation,
    MulticlassClassification,
    MultilabelClassification,
    Regression,
    SemanticSegmentation,
    SurfaceNormals,
    Task,
)
from mtl_lightning.tasks.trivial import means, medians
from mtl_lightning.types import Likelihood, TargetSpec

NAN = math.nan
NUMBERS = torch.tensor([1.0, 2.0, 3.0, 10.0])


def found(task: Task, target: Tensor, weight: Tensor | None = None) -> list[float]:
    """The trivial prediction of a target's labelled rows."""
    rows = task.picked(target)
    weight = torch.ones(len(target)) if weight is None else weight
    weight = weight.repeat_interleave(len(rows) // len(weight))
    kept = task.has_label(rows)
    prediction: list[float] = task.trivial_prediction(rows[kept], weight[kept]).tolist()
    return prediction


# -------------------------------------------------------------------------------------------------------------- by hand
@pytest.mark.parametrize(
    ("options", "target", "weight", "expected"),
    [
        pytest.param({}, NUMBERS, None, 4.0, id="the mean"),
        pytest.param({}, NUMBERS, [1.0, 1.0, 0.0, 2.0], 5.75, id="weighted"),
        pytest.param({}, torch.tensor([1.0, NAN, 3.0]), None, 2.0, id="a missing label"),
        pytest.param({}, NUMBERS[:, None], None, 4.0, id="a column"),
        pytest.param({"popart": 0.5}, NUMBERS, None, 4.0, id="in the target's units"),
        pytest.param({"loss": "l1"}, torch.tensor([9.0, 1.0, 2.0, 3.0, 50.0]), None, 3.0, id="the median"),
        pytest.param({"loss": "l1"}, NUMBERS, [1.0, 1.0, 1.0, 4.0], 10.0, id="the weighted median"),
        # Huber with delta 1: residuals 0 and 1 against 8: c - 1 + (c - 2) = 1 beyond, so c = 2
        pytest.param({"loss": "huber"}, torch.tensor([1.0, 2.0, 10.0]), None, 2.0, id="Huber's"),
    ],
)
def test_a_number(options: Any, target: Tensor, weight: list[float] | None, expected: float) -> None:
    task = Regression(TargetSpec(), **options)
    assert found(task, target, None if weight is None else torch.tensor(weight)) == pytest.approx([expected], abs=1e-3)


def test_each_number_of_a_vector_has_labels_of_its_own() -> None:
    target = torch.tensor([[1.0, NAN], [3.0, 8.0], [NAN, NAN], [NAN, 4.0]])
    assert found(Regression(TargetSpec(shape=(2,))), target) == [2.0, 6.0]
    assert found(Regression(TargetSpec(shape=(2,)), loss="l1"), target) == [1.0, 4.0]


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_standardised_numbers_outputs_are_standardised(loss: Any) -> None:
    task = Regression(TargetSpec(), loss=loss, standardize=True)
    task.fit_target(torch.tensor([100.0, 300.0]))
    prediction = task.trivial_prediction(torch.tensor([290.0, 310.0]), torch.ones(2))
    assert prediction.tolist() == pytest.approx([300.0], abs=1e-2)
    assert task.trivial_output(prediction).tolist() == pytest.approx([1.0], abs=1e-4)


def test_a_mean_that_is_large_beside_the_deviation() -> None:
    times = 1.7e9 + torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    assert found(Regression(TargetSpec()), times) == pytest.approx([1.7e9 + 2], abs=1e-6)


def test_shares_of_classes() -> None:
    target = torch.tensor([0, 0, 0, 2, -100])
    shares = torch.tensor(found(MulticlassClassification(TargetSpec(classes=3)), target)).exp()
    assert shares.tolist() == pytest.approx([0.75, 0.1, 0.25])  # of 4 labels: half a label of 5 was never seen
    weighted = MulticlassClassification(TargetSpec(classes=3), class_weights=[1.0, 1.0, 3.0], label_smoothing=0.3)
    # 0.7 times the share (or 0.1 for what is unseen) and 0.1 spread over all, times the class's weight
    expected = [0.7 * 0.75 + 0.1, 0.7 * 0.1 + 0.1, 3 * (0.7 * 0.25 + 0.1)]
    assert torch.tensor(found(weighted, target)).exp().tolist() == pytest.approx(expected)
    rows = torch.tensor([1.0, 1.0, 1.0, 6.0, 9.0])
    shares = torch.tensor(found(MulticlassClassification(TargetSpec(classes=3)), target, rows)).exp()
    assert shares[[0, 2]].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_shares_of_ones() -> None:
    target = torch.tensor([1.0, 0.0, 0.0, 0.0, NAN])
    assert found(BinaryClassification(TargetSpec()), target) == pytest.approx([math.log(1 / 3)])
    assert found(BinaryClassification(TargetSpec(), pos_weight=3.0), target) == pytest.approx([0.0], abs=1e-9)
    assert found(BinaryClassification(TargetSpec(), label_smoothing=0.2), target) == pytest.approx([math.log(3 / 7)])
    one_sided = found(BinaryClassification(TargetSpec()), torch.tensor([1, 1, 1]))
    assert one_sided == pytest.approx([math.log(7)])  # half a label of 4 is 0
    labels = torch.tensor([[1, -100], [0, 1], [0, 0], [0, -100]])
    assert found(MultilabelClassification(TargetSpec(classes=2)), labels) == pytest.approx([math.log(1 / 3), 0.0])


def test_pixels() -> None:
    pixels = torch.tensor([[[0, 0, 1], [-100, 1, 1]], [[1, 1, 1], [1, -100, -100]]])
    shares = torch.tensor(found(SemanticSegmentation(TargetSpec(classes=2)), pixels)).exp()
    assert shares.tolist() == pytest.approx([2 / 9, 7 / 9])
    weighted = torch.tensor(found(SemanticSegmentation(TargetSpec(classes=2)), pixels, torch.tensor([1.0, 3.0]))).exp()
    assert weighted.tolist() == pytest.approx([2 / 17, 15 / 17])
    depths = torch.tensor([[[0.0, 1.0], [NAN, 4.0]], [[16.0, 0.0], [0.0, 0.0]]])
    assert found(DepthEstimation(TargetSpec(shape=(2, 2))), depths) == [4.0]  # the median; 0 is no depth
    assert found(DepthEstimation(TargetSpec(), loss="l2"), depths) == [7.0]
    assert found(DepthEstimation(TargetSpec(), loss="log"), depths) == pytest.approx([math.log(4)])
    normals = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]]).T[None, :, None]
    assert found(SurfaceNormals(TargetSpec()), normals) == pytest.approx([0.5**0.5, 0.0, 0.5**0.5])


def test_pixels_of_large_pictures_are_spread_evenly() -> None:
    picture = torch.arange(512 * 1024, dtype=torch.float32).reshape(1, 512, 1024) + 1
    rows = DepthEstimation(TargetSpec(shape=(512, 1024))).picked(picture.expand(3, -1, -1))
    assert 3 * 900 < len(rows) <= 3 * 1024
    numbers = rows[: len(rows) // 3].long() - 1
    assert len({*(numbers % 1024).tolist()}) > 900  # columns
    assert len({*(numbers // 1024).tolist()}) > 450  # rows


# --------------------------------------------------------------------------------------------------- tasks of one's own
class Quartic(Task):
    """A task of a user's own: the fourth power of the residual, doubled outputs."""

    def __init__(self) -> None:
        likelihood = Likelihood(1.0, 1.0, "log_var")
        super().__init__(TargetSpec(), output_size=1, estimate_size=1, likelihood=likelihood)

    def labelled(self, target: Tensor) -> Tensor:
        return ~target.isnan()

    def invalid(self, target: Tensor) -> Tensor:
        return target.isinf().any()

    def check(self, target: Tensor) -> None:
        pass

    def elementwise_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (2 * output[:, 0] - target.nan_to_num()) ** 4

    def predict(self, output: Tensor) -> Tensor:
        return 2 * output[:, 0]

    estimate = predict

    def default_metrics(self) -> dict[str, Any]:
        return {}

    def update(self, *args: Any) -> None:
        pass


def test_a_loss_without_a_closed_form_is_searched() -> None:
    target = torch.tensor([0.0, 0.0, 0.0, 8.0, NAN])
    # 3 c^3 = (8 - c)^3
    assert found(Quartic(), target) == pytest.approx([8 / (1 + 3 ** (1 / 3)) / 2], abs=1e-3)
    quantile = Regression(TargetSpec(), loss=_pinball, likelihood=Likelihood(1.0, 1.0, "log_scale"))
    assert 75.0 <= found(quantile, torch.arange(101.0))[0] <= 85.0


def _pinball(output: Tensor, target: Tensor) -> Tensor:
    return torch.maximum(0.8 * (target - output), 0.2 * (output - target))


def test_of_a_far_away_number_too() -> None:
    target = 1e6 + 100 * torch.tensor([0.0, 1.0, 2.0, 3.0, 40.0])
    constant = found(Regression(TargetSpec(), loss="huber", delta=150.0), target)
    # of the best c between the third and the fourth number: sums of clipped residuals cancel
    residuals = (torch.tensor(constant[0], dtype=torch.float64) - target.double()).clamp(-150, 150)
    assert residuals.sum().abs() < 5


# ----------------------------------------------------------------------------------------------------------- statistics
def test_statistics_of_columns_without_a_label() -> None:
    values = torch.full((2, 2), NAN)
    values[0, 0] = 3.0
    for statistic in (means, medians):
        assert statistic(values, ~values.isnan(), torch.ones(2)).tolist() == [3.0, 0.0]


def test_no_gradient_reaches_the_network() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    target = NUMBERS + parameter.detach()
    prediction = Regression(TargetSpec(), loss="huber").trivial_prediction(target, torch.ones(4))
    assert not prediction.requires_grad
    assert parameter.grad is None
