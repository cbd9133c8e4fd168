"""Surface normals: which pixels count, the loss, and metrics that are exact over the whole set."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mtl_lightning.tasks import SurfaceNormals
from mtl_lightning.tasks.surface_metrics import BINS, MeanAngularError, MedianAngularError, WithinAngle, angular_error
from mtl_lightning.types import ConfigurationError, TargetSpec

TASK = SurfaceNormals(TargetSpec(shape=(3, 2, 2)))


def pixels(*vectors: list[float]) -> Tensor:
    """Vectors as maps (1, 3, 1, N)."""
    return torch.tensor(vectors, dtype=torch.float32).T[None, :, None]


def turned(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of random directions (N, 3) at these angles in degrees, made in float64."""
    first = F.normalize(torch.randn(len(angles), 3, dtype=torch.float64), dim=1)
    other = torch.randn(len(angles), 3, dtype=torch.float64)
    across = F.normalize(torch.linalg.cross(first, other), dim=1)
    radians = torch.deg2rad(angles.double())[:, None]
    return first, radians.cos() * first + radians.sin() * across


# --------------------------------------------------------------------------------------------------- which pixels count
def test_a_normal_whose_components_add_up_to_zero_is_a_label() -> None:
    task = SurfaceNormals(TargetSpec())
    target = pixels([0.5, 0.5, -1.0], [0.0, 0.0, 0.0], [math.nan, 0.0, 1.0], [1.0, -1.0, 0.0])
    assert task.labelled(target).flatten().tolist() == [True, False, False, True]
    output = pixels([0.0, 0.0, 1.0], [9.0, 9.0, 9.0], [5.0, 5.0, 5.0], [2.0, -2.0, 0.0]).requires_grad_()
    loss = task.loss(output, target)
    assert loss.item() == pytest.approx(1 + math.sqrt(2 / 3))
    (slope,) = torch.autograd.grad(loss, output)
    assert not slope[..., 1:3].any()


@pytest.mark.parametrize(("name", "expected"), [("cosine", 0.4), ("l1", 0.4 + 0.8), ("l2", 0.8)])
def test_loss_does_not_depend_on_lengths(name: Any, expected: float) -> None:
    task = SurfaceNormals(TargetSpec(), loss=name)
    for factor in (0.01, 1.0, 100.0):
        loss = task.loss(factor * pixels([0.0, 0.0, 1.0]), pixels([0.0, 0.8, 0.6]) / factor)
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_a_zero_output_has_a_finite_gradient() -> None:
    task = SurfaceNormals(TargetSpec())
    output = torch.zeros(1, 3, 1, 1, requires_grad=True)
    loss = task.loss(output, pixels([0.0, 0.6, 0.8]))
    (slope,) = torch.autograd.grad(loss, output)
    assert loss == 1
    assert slope.isfinite().all()
    assert (-slope[0, 1:, 0, 0] > 0).all()  # towards the target
    assert task.predict(output.detach()).isfinite().all()


def test_sigma_is_the_noise_along_each_tangent() -> None:
    """At its optimum exp(s) = a L / b, by likelihood.py."""
    normals = F.normalize(torch.randn(20_000, 3), dim=1)
    first, second = (F.normalize(torch.linalg.cross(normals, torch.randn(20_000, 3)), dim=1) for _ in range(2))
    second = torch.linalg.cross(normals, first)
    noise = 0.1 * torch.randn(2, 20_000, 1)
    noisy = normals + noise[0] * first + noise[1] * second
    for name, tolerance in (("cosine", 0.02), ("l2", 0.02)):
        task = SurfaceNormals(TargetSpec(), loss=name)  # type: ignore[arg-type]  # one of its names
        maps = [part.T[None, :, None] for part in (noisy, normals)]
        mean = task.loss(*maps) / task.count(maps[1])
        s = torch.log(task.likelihood.a * mean / task.likelihood.b)
        assert float(task.likelihood.sigma(s)) == pytest.approx(0.1, rel=tolerance)


def test_predictions_and_estimates_are_unit_vectors_at_the_size_of_the_labels() -> None:
    output = 3 * torch.randn(2, 3, 1, 2)
    assert TASK.predict(output).shape == (2, 3, 2, 2)
    assert TASK.estimate(output).shape == (2, 3, 1, 2)
    for made in (TASK.predict(output), TASK.predict(1e-6 * output), TASK.estimate(output)):
        torch.testing.assert_close(made.norm(dim=1), torch.ones_like(made[:, 0]))


@pytest.mark.parametrize("spec", [TargetSpec(shape=(4, 5)), TargetSpec(shape=(1, 4, 5)), TargetSpec(shape=(3,))])
def test_other_shapes_are_refused(spec: TargetSpec) -> None:
    with pytest.raises(ConfigurationError, match=r"SurfaceNormals: expected the shape \(3, H, W\)"):
        SurfaceNormals(spec)


def test_another_loss_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"in \['cosine', 'l1', 'l2'\], found 'l4'"):
        SurfaceNormals(TargetSpec(), loss="l4")  # type: ignore[arg-type]  # that is the point


# -------------------------------------------------------------------------------------------------------------- metrics
def test_angles_are_exact_small_ones_too() -> None:
    angles = torch.cat([torch.logspace(-4, 0, 50), torch.linspace(1, 179.9, 200), 180 - torch.logspace(-4, 0, 50)])
    first, second = turned(angles)
    found = angular_error(3 * first.float(), second.float() / 7)
    torch.testing.assert_close(found, angles, atol=2e-5, rtol=1e-5)


def test_a_vector_without_a_direction_is_wrong_by_a_right_angle() -> None:
    assert angular_error(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])) == 90
    assert angular_error(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, 1.0]])) == 0


@pytest.mark.parametrize("number", [1, 2, 999, 100_000])
def test_metrics_are_those_of_all_pixels_together(number: int) -> None:
    """Skewed batches of very different sizes, over two processes whose states are added up."""
    angles = torch.cat([torch.rand(number - number // 3) * 3, 20 + 160 * torch.rand(number // 3)])
    prediction, target = (part.float() for part in turned(angles))
    exact = angular_error(prediction, target)
    made: list[Any] = [MeanAngularError(), MedianAngularError(), WithinAngle(11.25), WithinAngle(22.5), WithinAngle(30)]
    for metric in made:
        other = metric.clone()
        for index, part in enumerate(torch.arange(number).tensor_split([number // 50, number // 3])):
            if len(part):
                (metric if index % 2 else other).update(prediction[part], target[part])
        for name in metric._defaults:  # what torchmetrics does with states of several processes
            assert metric._reductions[name] is not None
            setattr(metric, name, getattr(metric, name) + getattr(other, name))
        metric._update_count = 1
    mean, median, *shares = (float(metric.compute()) for metric in made)
    assert mean == pytest.approx(float(exact.double().mean()), abs=2e-6, rel=2e-7)
    assert median == pytest.approx(float(exact.median()), abs=90 / BINS + 2e-5)
    assert 90 / BINS + 2e-5 < 4e-4  # what the docstrings promise
    for share, threshold in zip(shares, (11.25, 22.5, 30.0), strict=True):
        assert share == pytest.approx(float((exact < threshold).double().mean()))


def test_a_pixel_of_weight_w_counts_as_w_pixels() -> None:
    prediction, target = torch.randn(301, 3), torch.randn(301, 3)
    weight = torch.randint(0, 4, (301,))
    for metric in (MeanAngularError(), MedianAngularError(), WithinAngle(60.0)):
        repeated = metric.clone()
        metric.update(prediction[:100], target[:100], weight=weight[:100].float())
        metric.update(prediction[100:], target[100:], weight=weight[100:].float())
        repeated.update(prediction.repeat_interleave(weight, 0), target.repeat_interleave(weight, 0))
        torch.testing.assert_close(metric.compute(), repeated.compute())


def test_the_task_feeds_valid_pixels_only() -> None:
    output, target = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    target[0] = 0.0
    target[1, :, 0, 1] = math.nan
    target[2] = torch.tensor([0.6, 0.2, -0.8])[:, None, None]
    metrics = TASK.metrics("test")
    for rows in (slice(0, 1), slice(1, 4)):
        TASK.update(metrics, output[rows], target[rows])
    kept = ~(target == 0).all(1) & ~target.isnan().any(1)
    assert int(kept.sum()) == 11
    cosine = F.cosine_similarity(output.double(), target.double(), dim=1)[kept]
    angles = torch.rad2deg(cosine.clamp(-1, 1).acos()).float()
    found = metrics.compute()
    assert list(found) == ["mean_angle", "median_angle", "within_11_25", "within_22_5", "within_30"]
    torch.testing.assert_close(found["mean_angle"], angles.mean())
    torch.testing.assert_close(found["median_angle"], angles.median(), atol=4e-4, rtol=0)
    torch.testing.assert_close(found["within_30"], (angles < 30).float().mean())
