"""Inner products of long rows that nearly coincide: what tells them apart is in their last digits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing import AlignedMTL, UPGrad
from mtl_lightning.balancing.gramian import gramian


def near(length: int, noise: float = 0.03) -> Tensor:
    """Three rows of one direction and a little noise, of other lengths."""
    random = torch.Generator().manual_seed(0)
    common = torch.randn(length, generator=random)
    return torch.stack([c * common + noise * torch.randn(length, generator=random) for c in (1.0, 1.5, 0.7)])


def exact(rows: Tensor, others: Tensor | None = None) -> Tensor:
    halves = [torch.split(half, 1 << 20, dim=1) for half in (rows, rows if others is None else others)]
    pairs = zip(*halves, strict=True)
    return torch.stack([a.double() @ b.double().T for a, b in pairs]).sum(0)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 1_000_003])
def test_every_length(length: int) -> None:
    rows = near(length)
    found = gramian(rows)
    assert found.dtype == torch.float64
    assert torch.allclose(found, exact(rows) if length else torch.zeros(3, 3).double(), rtol=1e-6, atol=1e-3)


def test_several_million_columns_are_off_by_less_than_one_product_is() -> None:
    rows = near(4_000_000)
    expected = exact(rows)
    assert off(gramian(rows), expected) < 1e-6 < off((rows @ rows.T).double(), expected)
    assert off(gramian(list(rows)), expected) < 1e-6
    assert off(gramian(rows, rows.flip(0)), exact(rows, rows.flip(0))) < 1e-6


@pytest.mark.parametrize("cls", [AlignedMTL, UPGrad])
def test_the_update_that_follows_is_the_exact_one(cls: type[AlignedMTL] | type[UPGrad]) -> None:
    rows, ones, losses = near(4_000_000), torch.ones(3, dtype=torch.bool), torch.ones(3)
    products = exact(rows)
    expected = cls(3).task_weights(products, losses.double(), ones)
    error = cls(3).gradient(rows, losses, ones) - (expected.float() @ rows)
    assert error.norm() / (expected @ products @ expected).sqrt() < 1e-4


@pytest.fixture
def _coarse() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("_coarse")
def test_a_lower_precision_of_products_does_not_matter() -> None:
    rows = near(100_000)
    assert off(gramian(rows), exact(rows)) < 1e-12


def test_rows_of_other_shapes_and_precisions() -> None:
    rows = near(24).view(3, 2, 3, 4)
    torch.testing.assert_close(gramian(list(rows)), exact(rows.flatten(1)))
    half = near(5000).bfloat16()
    torch.testing.assert_close(gramian(half), exact(half), rtol=1e-6, atol=0)
    double = near(5000).double()
    assert off(gramian(double), double @ double.T) < 1e-14
