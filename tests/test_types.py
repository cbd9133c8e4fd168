"""Specs, likelihoods and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from mtl_lightning.describe import describe
from mtl_lightning.types import (
    ConfigurationError,
    InputSpec,
    Likelihood,
    MtlLightningError,
    NotDescribableError,
    TableSpec,
    TargetError,
    TargetSpec,
    TensorSpec,
    input_spec_from_dict,
    input_spec_to_dict,
    sample_inputs,
    spec_of,
)

SPECS: list[InputSpec | None] = [
    None,
    TensorSpec((3, None, 7), "float64"),
    TensorSpec(()),
    TableSpec(("age", "wage"), {"job": 5, "state": 51}),
    {"image": TensorSpec((1, 8, 8)), "ids": TensorSpec((4,), "int64")},
    TableSpec(
        ("age",), {"job": 5}, {"jobs": (5, 3), "tags": (9, 7)}, {"job": "job", "jobs": "job"}, {"age": (-1.0, 0.5)}
    ),
]


# ---------------------------------------------------------------------------------------------------------------- specs
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_input_specs_come_back_from_plain_data(spec: InputSpec | None) -> None:
    data = input_spec_to_dict(spec)
    assert describe(data) == data  # plain data indeed
    assert input_spec_from_dict(data) == spec


def test_spec_of_inputs() -> None:
    image, ids = torch.zeros(5, 1, 8, 8), torch.zeros(5, 4, dtype=torch.int64)
    assert spec_of(image) == TensorSpec((1, 8, 8))
    assert spec_of({"image": image, "ids": ids}) == {"image": TensorSpec((1, 8, 8)), "ids": TensorSpec((4,), "int64")}


@pytest.mark.parametrize("inputs", [[1, 2], {}, {"text": ["a"]}, None])
def test_other_inputs_have_no_spec(inputs: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"a tensor or a dict of tensors .*found .*Pass `input_spec`"):
        spec_of(inputs)


@pytest.mark.parametrize("spec", [SPECS[2], SPECS[4]], ids=str)
def test_sample_inputs_have_their_spec(spec: InputSpec) -> None:
    assert spec_of(sample_inputs(spec, rows=3)) == spec


def test_sample_inputs_of_a_table_and_of_open_sizes() -> None:
    table = sample_inputs(TableSpec(("age", "wage"), {"job": 5}), rows=3)
    assert {name: (tuple(t.shape), t.dtype) for name, t in table.items()} == {
        "numeric": ((3, 2), torch.float32),
        "categorical": ((3, 1), torch.int64),
    }
    lists = sample_inputs(TableSpec((), {}, {"jobs": (5, 3), "tags": (9, 7)}))["lists"]
    assert lists.shape == (2, 10)
    assert lists.dtype == torch.int64
    assert sample_inputs(TensorSpec((3, None, 7))).shape == (2, 3, 32, 7)


def test_target_specs_come_back_from_plain_data() -> None:
    spec = TargetSpec(shape=(3,), classes=3, names=("a", "b", "c"), units="mm")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--spec", type=TargetSpec)
    assert parser.instantiate(parser.parse_object({"spec": describe(spec)})).spec == spec


# ----------------------------------------------------------------------------------------------------------- likelihood
def test_sigma_of_a_variance_and_of_a_scale() -> None:
    s = torch.tensor([math.log(9.0)])
    assert Likelihood(0.5, 0.5, "log_var").sigma(s).item() == pytest.approx(3.0)
    assert Likelihood(1.0, 1.0, "log_scale").sigma(s).item() == pytest.approx(9.0 * math.sqrt(2))


# --------------------------------------------------------------------------------------------------------------- errors
def test_errors_are_ours_and_of_the_usual_kinds() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(TargetError, ValueError)
    assert issubclass(NotDescribableError, TypeError)
    assert all(issubclass(e, MtlLightningError) for e in (ConfigurationError, TargetError, NotDescribableError))
