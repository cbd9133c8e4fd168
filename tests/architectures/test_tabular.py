from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning.architectures import TabularEncoder
from mtl_lightning.architectures.tabular import embedding_width
from mtl_lightning.types import ConfigurationError, TableSpec, TensorSpec

TABLE = TableSpec(("age", "hours"), {"work": 9, "education.years": 300})  # a name with a dot, as tables have them


def table(*rows: tuple[float, float, int, int]) -> dict[str, Tensor]:
    values = torch.tensor(rows, dtype=torch.float64)
    return {"numeric": values[:, :2].float(), "categorical": values[:, 2:].long()}


def embedding(encoder: nn.Module, column: int) -> nn.Parameter:
    return encoder.get_parameter(f"stages.0.embedding.{column}.weight")


def test_numbers_and_embeddings_side_by_side_go_through_the_perceptron() -> None:
    encoder = TabularEncoder(TABLE, hidden=(5,), embedding={"work": 2, "education.years": 3}, activation=nn.Tanh)
    inputs = table((0.5, -1.0, 4, 299), (1.5, 2.0, 1, 7))
    columns = torch.cat(
        [inputs["numeric"], embedding(encoder, 0)[[4, 1]], embedding(encoder, 1)[[299, 7]]], dim=1
    )  # (2, 2 + 2 + 3)
    weight, bias = (encoder.get_parameter(f"stages.1.0.{name}") for name in ("weight", "bias"))
    torch.testing.assert_close(encoder(inputs), torch.tanh(columns @ weight.T + bias))
    assert encoder.out_features == (5,)


def test_layers_may_be_normalised() -> None:
    encoder = TabularEncoder(TABLE, hidden=(5, 3), norm=nn.LayerNorm)
    layers = [[type(layer) for layer in encoder.get_submodule(f"stages.{stage}").children()] for stage in (1, 2)]
    assert layers == [[nn.Linear, nn.LayerNorm, nn.ReLU]] * 2


def test_embeddings_are_sized_by_the_schema() -> None:
    encoder = TabularEncoder(TABLE, hidden=())
    assert [tuple(embedding(encoder, i).shape) for i in (0, 1)] == [(9, 5), (300, 39)]
    assert encoder.out_features == (2 + 5 + 39,)
    assert [embedding_width(n) for n in (2, 9, 100, 10**6)] == [2, 5, 21, 50]
    assert tuple(embedding(TabularEncoder(TABLE, embedding=4), 1).shape) == (300, 4)
    assert tuple(embedding(TabularEncoder(TABLE, embedding={"work": 4}), 1).shape) == (300, 39)


def test_code_0_adds_nothing_until_it_is_trained() -> None:
    encoder = TabularEncoder(TABLE, hidden=())
    missing = encoder(table((1.0, 2.0, 0, 0)))
    assert missing[0].tolist() == [1.0, 2.0] + [0.0] * 44
    torch.autograd.backward([missing.sum()])
    gradient = embedding(encoder, 0).grad
    assert gradient is not None
    assert gradient[0].tolist() == [1.0] * 5
    assert not gradient[1:].any()


def test_a_missing_number_is_the_mean() -> None:
    encoder = TabularEncoder(TABLE)
    missing, mean = table((float("nan"), 2.0, 3, 4)), table((0.0, 2.0, 3, 4))
    assert torch.equal(encoder(missing), encoder(mean))


def test_numbers_can_be_standardised_here() -> None:
    encoder = TabularEncoder(TableSpec(("age",), {}), hidden=(), standardize=True)
    numbers = 40 + 7 * torch.randn(500, 1)
    for part in torch.split(numbers, [1, 99, 250, 150]):
        encoder({"numeric": part, "categorical": torch.zeros(len(part), 0, dtype=torch.int64)})
    found = encoder.eval()({"numeric": numbers, "categorical": torch.zeros(500, 0, dtype=torch.int64)})
    torch.testing.assert_close(found, (numbers - numbers.mean()) / numbers.std(correction=0))
    assert list(encoder.parameters()) == []
    assert TabularEncoder(TABLE).get_submodule("stages.0").standardize is None


def test_a_missing_number_does_not_spoil_the_statistics() -> None:
    encoder = TabularEncoder(TableSpec(("age",), {}), hidden=(), standardize=True)
    values = torch.tensor([[30.0], [float("nan")], [50.0]])
    found = encoder({"numeric": values, "categorical": torch.zeros(3, 0, dtype=torch.int64)})
    assert found.isfinite().all()
    assert encoder.get_buffer("stages.0.standardize.mean").isfinite().all()
    assert found[1].item() == 0.0
    assert found[[0, 2], 0].tolist() == pytest.approx([-1.0, 1.0], abs=1e-3)


@pytest.mark.parametrize("spec", [TensorSpec((4,)), None, TableSpec((), {})])
def test_it_takes_tables(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"TabularEncoder takes tables \(a TableSpec with columns\), found"):
        TabularEncoder(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": {"wrok": 3}}, r"expected names of categorical columns, \['work', 'edu.*found \['wrok'\]"),
    ],
)
def test_says_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TabularEncoder(TABLE, **options)
