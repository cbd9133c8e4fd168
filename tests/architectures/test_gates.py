from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning.architectures import MLP
from mtl_lightning.architectures.gates import Gate, Pool, gate_reader, mix
from mtl_lightning.types import ConfigurationError, TableSpec, TensorSpec


@pytest.mark.parametrize(
    ("shape", "cells", "width"),
    [((), 4, 1), ((6,), 4, 6), ((3, 9), 4, 12), ((3, 5, 7), 4, 48), ((3, 5, 7), 1, 3), ((2, 3, 4, 5), 2, 16)],
)
def test_pooling_gives_as_many_numbers_as_it_says(shape: tuple[int, ...], cells: int, width: int) -> None:
    pool = Pool(cells)
    assert pool(torch.randn(2, *shape)).shape == (2, width)
    assert pool.width(shape) == width


def test_pooling_is_the_mean_of_each_cell() -> None:
    pictures = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert Pool(2)(pictures).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert Pool()(pictures).tolist() == [[7.5]]


@pytest.mark.parametrize(
    ("argument", "spec", "width"),
    [
        (None, TensorSpec((6,)), 6),
        (None, TensorSpec((3, None, None)), 48),
        (None, TableSpec(("age", "hours"), {"work": 5}), 2 + 4),
        (None, TableSpec(("age", "hours"), {"work": 5}, {"tags": (5, 3)}), 2 + 4 + 4),
        (partial(MLP, hidden=[5]), TensorSpec((3, 4, 4)), 5),
        (nn.Conv2d(3, 7, 3), TensorSpec((3, 8, 8)), 7),
        (nn.Linear(6, 2), None, 2),
    ],
)
def test_gates_read_vectors(argument: Any, spec: Any, width: int) -> None:
    reader, found = gate_reader(argument, spec, 4)
    assert found == width
    shape = [n or 8 for n in spec.shape] if isinstance(spec, TensorSpec) else [6]
    inputs: Any = torch.randn(2, *shape)
    if isinstance(spec, TableSpec):
        inputs = {"numeric": torch.randn(2, 2), "categorical": torch.zeros(2, 1, dtype=torch.int64)}
        inputs["lists"] = torch.zeros(2, 3, dtype=torch.int64)
    assert reader(inputs).shape == (2, width)


@pytest.mark.parametrize(
    "spec",
    [None, TensorSpec((7,), "int64"), TensorSpec((None, 3)), {"x": TensorSpec((3,))}, TensorSpec((1, 1, 1, 1, 1))],
)
def test_says_when_a_gate_needs_a_network_of_its_own(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Expected inputs that a gate can read: .* as `gate_input`"):
        gate_reader(None, spec, 4)


def test_a_gates_weights_sum_to_one() -> None:
    weights = Gate(5, 3)(torch.randn(4, 5))
    assert weights.shape == (4, 3)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(4))


@pytest.mark.parametrize("size", [(5,), (5, 2), (5, 2, 3)])
def test_mixing_is_a_weighted_sum_row_by_row(size: tuple[int, ...]) -> None:
    weights, outputs = torch.randn(4, 3), torch.randn(4, 3, *size)
    expected = torch.zeros(4, *size)
    for row in range(4):
        for expert in range(3):
            expected[row] += weights[row, expert] * outputs[row, expert]
    torch.testing.assert_close(mix(weights, outputs), expected)


def test_mixing_keeps_the_experts_precision() -> None:
    assert mix(torch.rand(2, 3), torch.rand(2, 3, 4).bfloat16()).dtype == torch.bfloat16
