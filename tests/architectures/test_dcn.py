from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import DCNv2, LeNet, TabularEncoder
from mtl_lightning.architectures.base import build_architecture
from mtl_lightning.describe import describe
from mtl_lightning.types import ConfigurationError, TableSpec, TensorSpec
from tests.architectures.test_yaml import read

TABLE = TableSpec(("age",), {"work": 9, "sex": 3})
VECTORS = TensorSpec((4,))


def parameters(encoder: nn.Module, *names: str) -> list[Tensor]:
    return [encoder.get_parameter(f"stages.{name}") for name in names]


def test_a_cross_layer_by_hand() -> None:
    encoder = DCNv2(TensorSpec((2,)), layers=1, hidden=())
    with torch.no_grad():
        weight, bias = parameters(encoder, "1.layers.0.weight", "1.layers.0.bias")
        weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        bias.copy_(torch.tensor([0.5, -1.0]))
    # W x = (1 * 2 + 2 * 3, 3 * 2 + 4 * 3) = (8, 18); + b = (8.5, 17); * x_0 = (17, 51); + x_0
    assert encoder(torch.tensor([[2.0, 3.0]])).tolist() == [[19.0, 54.0]]


def test_layers_multiply_with_the_first_columns() -> None:
    encoder, x = DCNv2(VECTORS, layers=3, hidden=()), torch.randn(5, 4)
    expected = x
    for layer in range(3):
        weight, bias = parameters(encoder, f"1.layers.{layer}.weight", f"1.layers.{layer}.bias")
        expected = x * (expected @ weight.T + bias) + expected
    torch.testing.assert_close(encoder(x), expected)


def test_a_low_rank_is_the_full_matrix_of_that_rank() -> None:
    low, full, x = DCNv2(VECTORS, layers=1, rank=2, hidden=()), DCNv2(VECTORS, layers=1, hidden=()), torch.randn(5, 4)
    down, up, bias = parameters(low, "1.layers.0.0.weight", "1.layers.0.1.weight", "1.layers.0.1.bias")
    full.load_state_dict({"stages.1.layers.0.weight": up @ down, "stages.1.layers.0.bias": bias})
    torch.testing.assert_close(low(x), full(x))


def test_experts_are_mixed_by_a_softmax() -> None:
    encoder, x = DCNv2(VECTORS, layers=1, rank=3, experts=2, hidden=()), torch.randn(5, 4)
    names = ("gate.weight", "down", "inner", "up", "bias")
    gate, down, inner, up, bias = parameters(encoder, *(f"1.layers.0.{name}" for name in names))
    for row, found in zip(x, encoder(x), strict=True):
        weights = (gate @ row).softmax(0)
        mixed = torch.zeros(4)
        for i in range(2):
            mixed += weights[i] * (up[i].T @ (inner[i].T @ (down[i].T @ row).tanh()).tanh() + bias)
        torch.testing.assert_close(found, row * mixed + row)


@pytest.mark.parametrize(("structure", "width"), [("stacked", 5), ("parallel", 4 + 5)])
def test_the_perceptron_is_on_top_or_beside(structure: Any, width: int) -> None:
    encoder = DCNv2(VECTORS, layers=2, hidden=(6, 5), structure=structure, activation=nn.Tanh)
    assert encoder.out_features == (width,)
    x = torch.randn(3, 4)
    if structure == "stacked":
        crossed = encoder.get_submodule("stages.1")(x)
        expected = encoder.get_submodule("stages.3")(encoder.get_submodule("stages.2")(crossed))
    else:
        both = (encoder.get_submodule(f"stages.1.networks.{i}")(x) for i in (0, 1))
        expected = torch.cat([*both], dim=1)
    assert torch.equal(encoder(x), expected)


def test_columns_are_those_of_a_tabular_encoder_or_any_encoder_of_vectors() -> None:
    assert DCNv2(TABLE, hidden=()).out_features == TabularEncoder(TABLE, hidden=()).out_features
    assert DCNv2(TABLE, columns=partial(TabularEncoder, hidden=(), embedding=3), hidden=()).out_features == (7,)
    pictures = DCNv2(TensorSpec((1, 12, 12)), columns=partial(LeNet, channels=(2, 3), width=6), hidden=())
    assert pictures(torch.randn(2, 1, 12, 12)).shape == (2, 6)


def test_yaml_gives_the_columns_options_of_their_own() -> None:
    columns = {"class_path": "TabularEncoder", "init_args": {"hidden": [], "embedding": 2}}
    encoder = {"class_path": "DCNv2", "init_args": {"columns": columns, "rank": 2, "hidden": [5]}}
    factory = read(architecture={"class_path": "SharedBottom", "init_args": {"encoder": encoder}}).architecture
    made = build_architecture(factory, TABLE, ["a"])
    assert made.feature_sizes == {"a": (5,)}
    assert made.get_parameter("encoder.stages.1.layers.0.0.weight").shape == (2, 1 + 2 + 2)
    assert "'embedding': 2" in str(describe(factory))  # which a checkpoint keeps


def test_it_learns_a_product_that_a_linear_model_cannot() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 4)
    target = x[:, 0] * x[:, 1]
    network = nn.Sequential(DCNv2(VECTORS, layers=1, hidden=()), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(200):
        loss = (network(x)[:, 0] - target).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        optimizer.step()
    assert loss.item() < 1e-3  # the best linear function leaves 1


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (TensorSpec((1, 12, 12)), {}, r"takes tables .* and vectors, found .* as `columns`"),
        (
            TensorSpec((3, 12, 12)),
            {"columns": nn.Conv2d(3, 4, 3)},
            r"`columns` that make vectors .* size \(4, 10, 10\)",
        ),
        (VECTORS, {"experts": 4}, r"expected a `rank` with 4 experts, found none"),
        (VECTORS, {"structure": "beside"}, r"`structure`: expected stacked or parallel, found 'beside'"),
        (VECTORS, {"layers": 0}, r"`layers`: expected a .* of at least 1, found 0"),
    ],
)
def test_says_what_is_wrong(spec: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DCNv2(spec, **options)
