"""`rescale` gives an update another length, never another direction, and never blows up what cancels out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_lightning.balancing import MGDA, AlignedMTL, PCGrad

ONES = torch.ones(2, dtype=torch.bool)
LOSSES = torch.ones(2, dtype=torch.float64)
TURNED = torch.tensor([[1.0, 0.0], [2.0, 0.2]], dtype=torch.float64)
"""Rows to which AlignedMTL gives weights of 3.9 and -4.2 with these preferences, whose sum is negative."""


def aligned(rescale: Any) -> Tensor:
    balancer = AlignedMTL(2, pref_vector=[1.0, 3.0], rescale=rescale)
    return balancer.task_weights(TURNED @ TURNED.T, LOSSES, ONES)


@pytest.mark.parametrize(("rescale", "size"), [("sum", 2.0), ("mean", 1.0)])
def test_weights_of_both_signs_keep_their_signs(rescale: str, size: float) -> None:
    plain, found = aligned("none"), aligned(rescale)
    assert plain.sum() < 0  # dividing by it would turn the update round
    assert found.sign().tolist() == plain.sign().tolist()
    torch.testing.assert_close(found, plain * size / plain.abs().sum())


@pytest.mark.parametrize("rescale", ["sum", "mean"])
def test_weights_of_one_sign_sum_to_what_they_are_to(rescale: str) -> None:
    rows = torch.tensor([[1.0, 0.5], [0.2, 1.0]], dtype=torch.float64)
    found = MGDA(2, rescale=rescale).task_weights(rows @ rows.T, LOSSES, ONES)  # type: ignore[arg-type]  # a literal
    assert found.sum().item() == pytest.approx(2.0 if rescale == "sum" else 1.0)


@pytest.mark.parametrize("method", [MGDA, PCGrad])
def test_what_cancels_out_is_not_blown_up(method: type[MGDA] | type[PCGrad]) -> None:
    """The rows oppose each other but for rounding: a factor would be a million."""
    rows = torch.tensor([[1.0, 1e-7], [-1.0, 1e-7]], dtype=torch.float64)
    plain = method(2).gradient(rows, LOSSES, ONES)
    found = method(2, rescale="norm").gradient(rows * torch.tensor([[1.0], [1.001]]), LOSSES, ONES)
    assert found.norm() < 10 * plain.norm() + 1e-6


def test_the_norm_is_that_of_the_sum() -> None:
    rows = torch.tensor([[1.0, 0.5], [-0.2, 1.0]], dtype=torch.float64)
    found = MGDA(2, rescale="norm").gradient(rows, LOSSES, ONES)
    torch.testing.assert_close(found.norm(), rows.sum(0).norm())
