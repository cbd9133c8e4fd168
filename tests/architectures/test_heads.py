from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import Linear, MLPHead
from mtl_lightning.types import ConfigurationError


def test_linear_is_one_matrix_and_a_bias() -> None:
    head, features = Linear((6,), 3), torch.randn(4, 6)
    expected = features @ head.get_parameter("map.weight").T + head.get_parameter("map.bias")
    torch.testing.assert_close(head(features), expected)


def test_mlp_head_is_linear_activation_linear() -> None:
    head, features = MLPHead((6,), 3, hidden=(5,), activation=nn.Tanh), torch.randn(4, 6)
    (w1, b1), (w2, b2) = (
        (head.get_parameter(f"layers.{i}.map.weight"), head.get_parameter(f"layers.{i}.map.bias")) for i in (0, 2)
    )
    torch.testing.assert_close(head(features), torch.tanh(features @ w1.T + b1) @ w2.T + b2)


def test_mlp_head_without_hidden_layers_is_linear() -> None:
    assert [type(layer) for layer in MLPHead((6,), 3, hidden=()).layers] == [Linear]


def test_mlp_head_drops_hidden_units_in_training_only() -> None:
    head, features = MLPHead((6,), 3, hidden=(50,), dropout=0.5), torch.randn(4, 6)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


@pytest.mark.parametrize("cls", [Linear, MLPHead])
def test_a_dense_head_works_pixel_by_pixel(cls: Any) -> None:
    head, features = cls((6, 4, 3), 7), torch.randn(2, 6, 4, 3)
    changed = features.clone()
    changed[:, :, 2, 1] += 1.0
    moved = (head(changed) != head(features)).any(1)
    assert moved[:, 2, 1].all()
    assert moved.sum() == 2


@pytest.mark.parametrize("cls", [Linear, MLPHead])
def test_a_head_says_which_features_it_takes(cls: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"\(D,\) or \(D, H, W\) a row, found \(6, 4\); choose another head"):
        cls((6, 4), 7)


def test_mlp_head_refuses_widths_that_are_none() -> None:
    with pytest.raises(ConfigurationError, match=r"Expected as `hidden` whole numbers of at least 1, found \(0,\)"):
        MLPHead((6,), 3, hidden=(0,))
