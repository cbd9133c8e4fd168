from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import Head, Linear, MLPHead
from mtl_lightning.architectures.base import last_affine
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


@pytest.mark.parametrize("features", [(6,), (6, 4, 3)])
@pytest.mark.parametrize("cls", [Linear, MLPHead])
def test_the_last_affine_map_gives_the_outputs(cls: Any, features: tuple[int, ...]) -> None:
    head, inputs = cls(features, 7), torch.randn(2, *features)
    before = head(inputs)
    with torch.no_grad():
        for parameter in last_affine(head, "depth").parameters():
            parameter.mul_(3.0)
    torch.testing.assert_close(head(inputs), 3 * before)


def test_a_linear_map_of_the_users_own_is_its_own_last_affine_map() -> None:
    layer = nn.Linear(3, 2)
    assert last_affine(layer, "depth") is layer


class Unknown(Head):
    """A head that does not say what it ends in."""


class Wrong(Head):
    """A head that ends in something else."""

    def last_affine(self) -> nn.Linear | nn.Conv2d:
        return nn.Linear(3, 2, bias=False)


def test_a_head_without_a_last_affine_map_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown: expected a `last_affine` .* Write that method"):
        last_affine(Unknown((3,), 2), "depth")
    for head, found in (
        (Wrong((3,), 2), "Wrong with Linear there, or no bias"),
        (nn.Flatten(), "Flatten with no such"),
    ):
        with pytest.raises(ConfigurationError, match=rf"Task 'depth' rescales .* found {found}.* Give your head that"):
            last_affine(head, "depth")
    with pytest.raises(ConfigurationError, match="found Linear with no such method"):
        last_affine(nn.Linear(3, 2, bias=False), "depth")
