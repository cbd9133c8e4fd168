from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl_lightning.plain import check_plain, is_plain
from mtl_lightning.types import ConfigurationError


def test_plain_data_passes_and_loads_from_a_checkpoint(tmp_path: Path) -> None:
    plain = {"a": [1, 2.5, None, {"b": True}], "c": "text", "codes": {3: "three"}}
    check_plain(plain, "schema")
    torch.save(plain, tmp_path / "plain.pt")
    assert torch.load(tmp_path / "plain.pt", weights_only=True) == plain


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(1.0), "in schema, found .* of type float64"),
        ([1, (2, 3)], r"in schema\[1\], found \(2, 3\) of type tuple"),
        ({"a": {"b": torch.zeros(1)}}, r"in schema\['a'\]\['b'\], found tensor.* of type Tensor"),
        ({np.int64(3): 1}, "in a key of schema, found .* of type int64"),
        ({"a": {1, 2}}, r"in schema\['a'\], found .* of type set"),
        ({"a": Path("x")}, r"in schema\['a'\], found .*Path"),
    ],
)
def test_the_rest_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_plain(value, "schema")


def test_ordered_dicts_are_dicts() -> None:
    check_plain(OrderedDict(a=1), "schema")


def test_a_checkpoint_holds_tensors_and_tuples_besides(tmp_path: Path) -> None:
    value = {"inputs": (torch.arange(3), [torch.zeros(2)]), "names": ("a", None), 3: True}
    assert is_plain(value, tensors=True)
    check_plain(value, "batch", tensors=True)
    torch.save(value, tmp_path / "batch.pt")
    assert torch.load(tmp_path / "batch.pt", weights_only=True)["names"] == ("a", None)


def test_tensors_and_tuples_are_plain_only_where_they_are_allowed() -> None:
    assert is_plain({"a": [1, 2.5, None]})
    assert not is_plain([torch.zeros(1)])
    assert not is_plain(((1, 2), "b"))


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), Path("x"), torch.nn.Parameter(torch.zeros(1)), {1, 2}])
def test_nothing_else_is_plain_even_with_tensors(value: Any) -> None:
    assert not is_plain({"inputs": [value]}, tensors=True)
    with pytest.raises(ConfigurationError, match=r"dict, tuple, Tensor\) in batch\['inputs'\]\[0\], found"):
        check_plain({"inputs": [value]}, "batch", tensors=True)
