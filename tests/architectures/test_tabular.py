from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import Network
from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.architectures.columns import Columns, embedding_width
from mtl_lightning.tasks import BinaryClassification
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


LISTS = TableSpec(
    (),
    {"item": 9, "work": 4},
    lists={"words": (11, 4), "bought": (9, 3)},
    shared={"item": "items", "bought": "items"},
)


def with_lists(*rows: list[int]) -> dict[str, Tensor]:
    """Rows of item, work, four words and three bought."""
    codes = torch.tensor(rows)
    return {"numeric": torch.zeros(len(rows), 0), "categorical": codes[:, :2], "lists": codes[:, 2:]}


@pytest.mark.parametrize(("bag", "share"), [("mean", [3, 2]), ("sum", [1, 1]), ({"words": "sum"}, [1, 2])])
def test_a_list_is_the_mean_or_sum_of_its_elements(bag: Any, share: list[int]) -> None:
    encoder = TabularEncoder(LISTS, hidden=(), embedding={"items": 2, "work": 3, "words": 5}, bag=bag)
    assert [name for name, _ in encoder.named_parameters()] == [f"stages.0.embedding.{i}.weight" for i in (0, 1, 2)]
    items, work, words = (embedding(encoder, i) for i in (0, 1, 2))
    torch.nn.init.normal_(items)  # code 0 of items, too, which as an element of a list adds nothing
    found = encoder(with_lists([0, 3, 10, 2, 2, 0, 5, 0, 4], [8, 1, 0, 0, 0, 0, 0, 0, 0]))
    full = [items[0], work[3], (words[10] + 2 * words[2]) / share[0], (items[5] + items[4]) / share[1]]
    empty = [items[8], work[1], torch.zeros(5), torch.zeros(2)]
    torch.testing.assert_close(found, torch.stack([torch.cat(full), torch.cat(empty)]))
    assert encoder.out_features == (2 + 3 + 5 + 2,)


def test_a_list_is_what_torchs_embedding_bag_makes_of_it() -> None:
    encoder = TabularEncoder(TableSpec((), {}, {"words": (50, 9)}), hidden=(), embedding=4)
    codes = torch.randint(50, (64, 9)) * (torch.rand(64, 9) < 0.7)
    bags = nn.EmbeddingBag(50, 4, mode="mean", padding_idx=0)
    bags.load_state_dict({"weight": embedding(encoder, 0)})
    found, expected = encoder({**with_lists(*[[0, 0]] * 64), "lists": codes}), bags(codes)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.square().sum(), [embedding(encoder, 0)])
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), [bags.weight])[0])
    assert not gradient[0].any()


def test_rows_of_a_jacobian_can_be_taken_at_once() -> None:
    encoder = TabularEncoder(LISTS, hidden=(4,), bag={"words": "sum"})
    outputs = encoder(with_lists([2, 0, 0, 5, 0, 0, 2, 7, 0], [1, 3, 4, 5, 5, 1, 0, 0, 0])).sum(0)
    parameters, tasks = list(encoder.parameters()), torch.eye(4)
    at_once = torch.autograd.grad(outputs, parameters, tasks, retain_graph=True, is_grads_batched=True)
    for row, own in enumerate(tasks):
        expected = torch.autograd.grad(outputs, parameters, own, retain_graph=True)
        torch.testing.assert_close([gradient[row] for gradient in at_once], list(expected))


def test_columns_that_share_move_one_table() -> None:
    encoder = TabularEncoder(LISTS, hidden=(), embedding=1)
    torch.autograd.backward([encoder(with_lists([2, 0, 0, 0, 0, 0, 2, 7, 0])).sum()])
    gradient = embedding(encoder, 0).grad
    assert gradient is not None
    assert gradient[:, 0].tolist() == [0, 0, 1.5, 0, 0, 0, 0, 0.5, 0]


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
        (
            {"embedding": {"wordz": 3}},
            r"names of categorical columns or lists, \['item', 'work.*found \['wordz'\].* 'words'",
        ),
        (
            {"bag": {"word": "sum"}},
            r"`bag`: expected names of columns of lists, \['words', 'bought'\], found \['word'\]",
        ),
        ({"bag": "max"}, r"`bag`: expected mean or sum, found {'words': 'max', 'bought': 'max'}"),
        ({"embedding": {"item": 2, "bought": 3}}, r"'bought'\] share .* 'items': expected .* found \[9\] .* \[2, 3\]"),
    ],
)
def test_says_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TabularEncoder(LISTS, **options)


def test_columns_that_share_have_one_number_of_codes() -> None:
    with pytest.raises(ConfigurationError, match=r"\['a', 'b'\] share their embeddings 'c': .* found \[3, 4\] codes"):
        TabularEncoder(TableSpec((), {"a": 3, "b": 4}, shared={"a": "c", "b": "c"}))


MANY = TableSpec(
    ("age",),
    {"a": 5, "b": 3, "c": 40, "huge": 9000, "d": 7, "e": 6},
    lists={"words": (6, 2)},
    shared={"e": "common", "words": "common"},
)


def of_many(rows: int) -> dict[str, Tensor]:
    codes = torch.stack([torch.randint(size, (rows,)) for size in MANY.categorical.values()], 1)
    return {"numeric": torch.randn(rows, 1), "categorical": codes, "lists": torch.randint(6, (rows, 2))}


@pytest.mark.parametrize("width", [4, {"a": 4, "c": 4, "common": 3, "d": 3, "b": 2}, None])
@pytest.mark.parametrize("one_by_one", ["option", "hook"])
def test_small_tables_looked_up_together_give_the_same_bits(
    width: Any, one_by_one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    calls: Counter[bool] = Counter()
    embed, plain = nn.functional.embedding, False
    monkeypatch.setattr(nn.functional, "embedding", lambda *args: calls.update([plain]) or embed(*args))
    encoder, inputs = TabularEncoder(MANY, hidden=(4,), embedding=width), of_many(300)
    found = []
    for plain in (False, True):
        encoder.zero_grad()
        columns = cast("Columns", encoder.stages[0])
        if plain and one_by_one == "option":
            columns.fast_paths = False
        if plain and one_by_one == "hook":  # on a table, which would not run
            columns.embedding[0].register_forward_hook(lambda *_: None)
        output = encoder(inputs)
        output.square().sum().backward()
        found.append([output, *(parameter.grad for parameter in encoder.parameters())])
    assert all(torch.equal(fast, other) for fast, other in zip(*found, strict=True))
    assert calls[False] < calls[True] == 7  # six columns and the list


@pytest.mark.parametrize("code", [5, -1])
@pytest.mark.parametrize("fast", [True, False])
def test_a_code_that_a_table_lacks_is_not_read_from_the_next(code: int, fast: bool) -> None:
    encoder, inputs = TabularEncoder(MANY, embedding=4), of_many(3)
    cast("Columns", encoder.stages[0]).fast_paths = fast
    inputs["categorical"][1, 0] = code
    with pytest.raises(IndexError, match="out of"):
        encoder(inputs)


def test_the_networks_switch_reaches_the_encoder() -> None:
    tasks = {"y": BinaryClassification()}
    for fast in (True, False):
        network = Network(tasks, partial(SharedBottom, encoder=TabularEncoder), MANY, fast_paths=fast)
        (columns,) = [part for part in network.modules() if isinstance(part, Columns)]
        assert columns.fast_paths == network.fast_paths <= fast
