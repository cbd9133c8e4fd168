from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mtl_lightning.nested import leaves, map_leaves


class Pair(NamedTuple):
    image: Tensor
    lengths: list[Tensor]


def value() -> dict[str, object]:
    pair = Pair(torch.arange(4), [torch.ones(4), torch.zeros(4)])
    return {"inputs": pair, "targets": OrderedDict(b=(torch.arange(4.0),), a="text")}


def test_leaves_come_in_order_with_their_places() -> None:
    found = dict(leaves(value()))
    assert list(found) == [("inputs", 0), ("inputs", 1, 0), ("inputs", 1, 1), ("targets", "b", 0), ("targets", "a")]
    assert found["targets", "a"] == "text"
    assert [place for place, _ in leaves(torch.zeros(1))] == [()]
    assert list(leaves({"empty": [{}, ()]})) == []
    assert next(leaves([torch.zeros(7)], "batch"))[0] == ("batch", 0)


def test_a_mapped_value_has_the_form_of_the_first() -> None:
    before = value()
    found = map_leaves(lambda leaf: leaf[1:3] if isinstance(leaf, Tensor) else leaf, before)
    assert type(found["inputs"]) is Pair
    assert type(found["inputs"].lengths) is list
    assert type(found["targets"]) is dict
    assert found["targets"]["a"] == "text"
    assert list(found["targets"]) == ["b", "a"]
    for (place, leaf), (other, old) in zip(leaves(found), leaves(before), strict=True):
        assert place == other
        assert leaf is old if isinstance(old, str) else torch.equal(leaf, old[1:3])


def test_values_of_one_form_are_joined_leaf_by_leaf() -> None:
    parts = [{"a": torch.full((2,), n), "b": [torch.full((1, 3), n)]} for n in range(3)]
    joined = map_leaves(lambda *leaf: torch.cat(leaf), *parts)
    assert joined["a"].tolist() == [0, 0, 1, 1, 2, 2]
    assert joined["b"][0].shape == (3, 3)


def test_values_of_other_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        map_leaves(lambda a, b: a + b, [1, 2], [1])
    with pytest.raises(KeyError):
        map_leaves(lambda a, b: a + b, {"a": 1}, {"b": 1})
