"""Semantic segmentation: its loss and its metrics against figures made in another way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks import SemanticSegmentation
from mtl_lightning.types import ConfigurationError, TargetError, TargetSpec

VOID = -1
SPEC = TargetSpec(shape=(6, 8), classes=5)


def task(**options: object) -> SemanticSegmentation:
    return SemanticSegmentation(SPEC, **{"ignore_index": VOID, **options})  # type: ignore[arg-type]  # any option


def labels(rows: int, *, classes: int = 5, void: float = 0.2) -> Tensor:
    target = torch.randint(classes, (rows, 6, 8))
    return target.masked_fill(torch.rand(target.shape) < void, VOID)


def scores(predicted: Tensor) -> Tensor:
    """Outputs (B, 5, H, W) whose likeliest class is the given one."""
    return F.one_hot(predicted, 5).movedim(-1, 1).float()


def iou_by_hand(predicted: Tensor, target: Tensor) -> float:
    """Class by class, over sets of pixels; without the classes that neither has."""
    kept = target != VOID
    found = []
    for k in range(5):
        mine, true = (predicted == k) & kept, (target == k) & kept
        if (mine | true).any():
            found.append(float((mine & true).sum() / (mine | true).sum()))
    return sum(found) / len(found)


# ----------------------------------------------------------------------------------------------------------------- loss
def test_loss_is_the_summed_cross_entropy_of_labelled_pixels() -> None:
    output, target = torch.randn(3, 5, 6, 8), labels(3)
    expected = F.cross_entropy(output, target, ignore_index=VOID, reduction="sum")
    torch.testing.assert_close(task().loss(output, target), expected)
    assert task().count(target) == (target != VOID).sum()


def test_class_weights_and_smoothing_are_torchs() -> None:
    output, target, weights = torch.randn(3, 5, 6, 8), labels(3), [0.5, 1.0, 2.0, 0.0, 3.0]
    expected = F.cross_entropy(
        output, target, torch.tensor(weights), ignore_index=VOID, reduction="sum", label_smoothing=0.1
    )
    found = task(class_weights=weights, label_smoothing=0.1).loss(output, target)
    torch.testing.assert_close(found, expected)


def test_a_row_without_a_map_is_left_out_and_weights_count_pixels() -> None:
    output, target = torch.randn(3, 5, 6, 8), labels(3)
    target[1] = VOID
    weight = torch.tensor([2.0, 7.0, 0.5])
    rows = [task().loss(output[r : r + 1], target[r : r + 1]) for r in range(3)]
    torch.testing.assert_close(task().loss(output, target, weight), 2 * rows[0] + 0.5 * rows[2])
    number = (target != VOID).sum((1, 2)).float()
    torch.testing.assert_close(task().count(target, weight), 2 * number[0] + 0.5 * number[2])


@pytest.mark.parametrize("size", [(3, 4), (12, 16), (6, 7)])
def test_outputs_of_another_size_are_resized_to_the_target(size: tuple[int, int]) -> None:
    output, target = torch.randn(2, 5, *size), labels(2)
    whole = F.interpolate(output, size=(6, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(task().loss(output, target), task().loss(whole, target))
    predicted = task().predict(output)
    torch.testing.assert_close(predicted["probability"], whole.softmax(1))
    assert predicted["label"].shape == (2, 6, 8)
    assert task().estimate(output).shape == output.shape
    found, expected = task().metrics("val"), task().metrics("val")
    task().update(found, output, target)
    task().update(expected, whole, target)
    torch.testing.assert_close(found.compute(), expected.compute())


def test_a_spec_without_a_size_takes_any() -> None:
    free = SemanticSegmentation(TargetSpec(classes=5), ignore_index=VOID)
    for sides in ((4, 4), (6, 8)):
        target = torch.randint(5, (2, 1, *sides))
        assert free.loss(torch.randn(2, 5, *sides), target) > 0
    assert free.predict(torch.randn(2, 5, 3, 7))["label"].shape == (2, 3, 7)
    with pytest.raises(TargetError, match=r"expected a target of shape \(B, 6, 8\) or \(B, 1, 6, 8\), found \(2, 4, 4"):
        task().check(torch.zeros(2, 4, 4, dtype=torch.int64))


# -------------------------------------------------------------------------------------------------------------- metrics
def test_metrics_are_those_of_the_whole_set_however_it_is_cut() -> None:
    predicted, target = torch.randint(5, (9, 6, 8)), labels(9)
    target[6] = VOID
    metrics = task().metrics("val")
    for cut in (slice(0, 4), slice(4, 5), slice(5, 9)):
        task().update(metrics, scores(predicted[cut]), target[cut])
    found = metrics.compute()
    kept = target != VOID
    assert found["miou"] == pytest.approx(iou_by_hand(predicted, target))
    assert found["pixel_accuracy"] == pytest.approx(float((predicted == target)[kept].float().mean()))


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean() -> None:
    predicted, target = torch.randint(3, (4, 6, 8)), labels(4, classes=3)
    metrics = task().metrics("val")
    predicted[target == VOID] = 4  # what is predicted of unlabelled pixels is no occurrence
    task().update(metrics, scores(predicted), target)
    assert metrics.compute()["miou"] == pytest.approx(iou_by_hand(predicted, target))
    assert metrics.compute()["miou"] > 0.15


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    target = torch.zeros(1, 6, 8, dtype=torch.int64)
    predicted = target.clone()
    predicted[0, 0, :4] = 3
    metrics = task().metrics("val")
    task().update(metrics, scores(predicted), target)
    assert metrics.compute()["miou"] == pytest.approx((44 / 48 + 0) / 2)


# --------------------------------------------------------------------------------------------------------------- errors
def test_a_label_out_of_range_is_shown_with_its_pixel() -> None:
    target = labels(3, void=0.0)
    target[2, 4, 7] = 5
    with pytest.raises(
        TargetError, match=r"classes 0..4 or -1 for missing, found 5 in row 2, pixel \(4, 7\). .* as missing"
    ):
        task().check(target)
    target[2, 4, 7] = -100
    assert task().count(target).isnan()


def test_vectors_are_no_maps() -> None:
    with pytest.raises(ConfigurationError, match=r"\(B, 5, H, W\), found \(3, 5\). Use an encoder that does not pool"):
        task().loss(torch.randn(3, 5), labels(3))


@pytest.mark.parametrize("spec", [TargetSpec(shape=(6, 8)), TargetSpec(shape=(3, 6, 8), classes=5)])
def test_other_specs_are_refused(spec: TargetSpec) -> None:
    with pytest.raises(ConfigurationError, match=r"SemanticSegmentation: expected .* TargetSpec"):
        SemanticSegmentation(spec)
