from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import BatchNorm


@pytest.mark.parametrize(
    ("theirs", "shape"), [(nn.BatchNorm1d, (4, 3)), (nn.BatchNorm2d, (2, 3, 5, 4)), (nn.BatchNorm3d, (1, 3, 2, 2, 2))]
)
def test_it_is_pytorchs_with_more_than_one_value_per_channel(theirs: Any, shape: tuple[int, ...]) -> None:
    ours, expected, inputs = BatchNorm(3), theirs(3), torch.randn(shape)
    for training in (True, True, False):
        torch.testing.assert_close(ours.train(training)(inputs), expected.train(training)(inputs))
    found, there = ours.state_dict(), expected.state_dict()
    assert list(found) == list(there)
    assert all(torch.equal(found[name], value) for name, value in there.items())


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_per_channel_is_normalised_by_the_running_statistics(shape: tuple[int, ...]) -> None:
    norm, inputs = BatchNorm(3), torch.randn(shape)
    norm(torch.randn(50, 3) * 4 + 2)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    found = norm(inputs)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    torch.testing.assert_close(found, norm.eval()(inputs))
    assert found.requires_grad


def test_it_says_which_features_it_takes() -> None:
    with pytest.raises(ValueError, match=r"expected features \(B, D, \*\), found shape \(3,\)"):
        BatchNorm(3)(torch.randn(3))
