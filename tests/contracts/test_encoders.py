"""What every exported encoder and head promises; a new one is tested without editing this file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_lightning.architectures import Encoder
from mtl_lightning.types import InputSpec
from tests.contracts.architecture_cases import ENCODER_SPECS, ENCODERS, HEADS, accepted, exported, rows, unmoved
from tests.cover import some_of


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ------------------------------------------------------------------------------------------------------------- encoders
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize(("cls", "spec"), ENCODERS)
def test_an_encoder_declares_its_features(cls: Any, spec: InputSpec, number: int) -> None:
    encoder = cls(spec)
    assert encoder(rows(spec, number)).shape == (number, *encoder.out_features)


@pytest.mark.parametrize(("cls", "spec"), ENCODERS)
def test_the_stages_of_an_encoder_make_it_up(cls: Any, spec: InputSpec) -> None:
    encoder, features = cls(spec).eval(), rows(spec, 3)
    expected = encoder(features)
    for stage in getattr(encoder, "stages", [encoder]):
        features = stage(features)
    assert torch.equal(features, expected)


@pytest.mark.parametrize(("cls", "spec"), ENCODERS)
def test_an_encoder_runs_in_float64_and_uses_every_parameter(cls: Any, spec: InputSpec) -> None:
    encoder = cls(spec).double()
    features = encoder(rows(spec, 8, torch.float64))
    assert features.dtype == torch.float64
    assert unmoved(features, encoder) == []


@pytest.mark.parametrize("cls", some_of(exported(Encoder), 2))
def test_an_encoder_compiles(cls: Any) -> None:
    spec = accepted(cls, ENCODER_SPECS)[0].values[1]
    encoder, inputs = cls(spec).eval(), rows(spec, 4)
    compiled: Any = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), encoder(inputs))


# ---------------------------------------------------------------------------------------------------------------- heads
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize(("cls", "size"), HEADS)
def test_a_head_keeps_the_axes_behind_the_features(cls: Any, size: tuple[int, ...], number: int) -> None:
    head = cls(size, 7)
    outputs = head(torch.randn(number, *size))
    assert outputs.shape == (number, 7, *size[1:])
    assert unmoved(outputs, head) == []


@pytest.mark.parametrize(("cls", "size"), HEADS)
def test_a_head_runs_in_float64(cls: Any, size: tuple[int, ...]) -> None:
    assert cls(size, 7).double()(torch.randn(2, *size, dtype=torch.float64)).dtype == torch.float64
