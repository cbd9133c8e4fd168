"""A network that reads a table is saved in ONNX's format, and gives there what it gives here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.types import ConfigurationError, TableSpec
from tests.helpers import make_module

SPEC = TableSpec(numeric=("a", "b"), categorical={"c": 5})


@pytest.mark.filterwarnings("ignore")  # of torch's exporters, about themselves
@pytest.mark.parametrize("dynamo", [True, False])
def test_a_table(dynamo: bool, tmp_path: Path) -> None:
    """By both of PyTorch's exporters; the first is its default."""
    module = make_module(architecture=partial(SharedBottom, encoder=TabularEncoder), input_spec=SPEC).eval()
    inputs = {"numeric": torch.randn(3, 2), "categorical": torch.tensor([[1], [4], [0]])}
    names = {} if dynamo else {"input_names": ["numeric", "categorical"]}
    module.to_onnx(tmp_path / "table.onnx", inputs, dynamo=dynamo, **names)
    saved = ReferenceEvaluator(onnx.load(tmp_path / "table.onnx"))
    given = dict(zip(saved.input_names, (value.numpy() for value in inputs.values()), strict=True))
    for output, expected in zip(saved.run(None, given), module(inputs).values(), strict=True):
        torch.testing.assert_close(torch.as_tensor(output), expected.detach(), rtol=1e-5, atol=1e-5)


def test_what_it_cannot_do_is_said_with_what_can(tmp_path: Path) -> None:
    module = make_module(architecture=partial(SharedBottom, encoder=TabularEncoder), input_spec=SPEC).eval()
    for sample in (None, (torch.randn(3, 2),)):
        with pytest.raises(ConfigurationError, match=r"`to_onnx`: .*use `module.export\(folder\)`"):
            module.to_onnx(tmp_path / "table.onnx", sample)
