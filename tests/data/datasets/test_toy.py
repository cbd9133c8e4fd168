from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mtl_lightning.data import TwoTaskLandscape

# At scale 1, in float64: both losses, and their gradients, at the five starts; computed with the authors' code.
LOSSES = [
    [6.552363, 7.900798],
    [0.0, 0.0],
    [7.943949, 6.691495],
    [0.388808, -4.754484],
    [-8.831059, 2.814293],
]
GRADIENTS = [
    [[-0.285399, 0.007249], [-0.073992, 0.008739]],
    [[0.0, 10.856381], [0.0, 10.856381]],
    [[0.071411, 0.001961], [0.249938, 0.001652]],
    [[-0.710264, -0.709399], [-0.024492, 9.160757]],
    [[0.184847, 7.579204], [1.478775, -2.330037]],
]


def published(values: list[list[float]] | list[list[list[float]]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_the_published_values_at_the_starts(dtype: torch.dtype, tolerance: float) -> None:
    landscape = TwoTaskLandscape()
    losses, gradients = landscape.differentiate(landscape.starts(dtype))
    assert losses.dtype == gradients.dtype == dtype
    torch.testing.assert_close(losses.double(), published(LOSSES), rtol=0, atol=tolerance)
    torch.testing.assert_close(gradients.double(), published(GRADIENTS), rtol=0, atol=tolerance)


def test_the_scale_multiplies_the_first_loss_alone() -> None:
    landscape = TwoTaskLandscape(0.1)
    losses, gradients = landscape.differentiate(landscape.starts(torch.float64))
    factors = torch.tensor([0.1, 1.0], dtype=torch.float64)
    torch.testing.assert_close(losses, published(LOSSES) * factors, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients, published(GRADIENTS) * factors.unsqueeze(1), rtol=0, atol=1e-6)


def test_the_optima() -> None:
    points = torch.tensor([[0.0, -8.3551], [7.0, -8.4339], [-7.0, -8.4339]], dtype=torch.float64)
    losses, gradients = TwoTaskLandscape().differentiate(points)
    assert losses[0].tolist() == pytest.approx([-15.0916, -15.0916], abs=1e-4)  # published
    assert losses[1:].tolist() == [
        pytest.approx([-19.989, -0.399], abs=0.02),
        pytest.approx([-0.399, -19.989], abs=0.02),
    ]
    assert gradients[0].sum(0).norm() < 1e-4  # of the sum
    assert gradients[1, 0].norm() < 1e-4  # of the first loss
    assert gradients[2, 1].norm() < 1e-4  # of the second


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_points_stand_in_any_shape_and_do_not_touch_each_other(shape: tuple[int, ...]) -> None:
    landscape = TwoTaskLandscape(0.1)
    points = 4 * torch.randn(*shape, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses, gradients = landscape.differentiate(points)
    assert (losses.shape, gradients.shape) == ((*shape, 2), (*shape, 2, 2))
    each = zip(points.view(-1, 2), losses.view(-1, 2), gradients.view(-1, 2, 2), strict=True)
    for point, loss, gradient in each:
        at = point.clone().requires_grad_()
        alone = landscape.losses(at)
        torch.testing.assert_close(loss, alone.detach())
        for row, value in zip(gradient, alone, strict=True):
            torch.testing.assert_close(row, *torch.autograd.grad(value, at, retain_graph=True))


def test_gradients_need_no_graph_and_leave_none() -> None:
    landscape = TwoTaskLandscape()
    points = landscape.starts().requires_grad_()
    with torch.no_grad():
        losses, gradients = landscape.differentiate(points)
    assert not losses.requires_grad
    assert not gradients.requires_grad
    assert points.grad is None


def test_no_loss_is_below_its_bound() -> None:
    landscape = TwoTaskLandscape(0.1)
    axis = torch.linspace(-12, 12, 481, dtype=torch.float64)
    losses = landscape.losses(torch.cartesian_prod(axis, axis))
    assert landscape.bounds == (-2.1, -21.0)
    assert (losses > torch.tensor(landscape.bounds)).all()


def test_the_floors_of_the_valleys_are_finite() -> None:
    landscape = TwoTaskLandscape()
    points = torch.tensor([[-7 + 2 * math.tanh(3.0), 3.0], [7 - 2 * math.tanh(3.0), 3.0]], dtype=torch.float64)
    losses, gradients = landscape.differentiate(points)
    lowest = math.tanh(1.5) * (math.log(5e-6) + 6)
    assert losses.diagonal().tolist() == pytest.approx([lowest, lowest])
    assert gradients.isfinite().all()


def test_points_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"points of shape \(\*, 2\), found \(5, 3\)"):
        TwoTaskLandscape().losses(torch.zeros(5, 3))
