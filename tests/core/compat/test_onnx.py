"""A network that reads a table is saved in ONNX's format, and gives there what it gives here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_lightning.architectures import SharedBottom, TabularEncoder
from mtl_lightning.types import TableSpec
from tests.helpers import make_module

SPEC = TableSpec(numeric=("a", "b"), categorical={"c": 5})


def test_a_table(tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    reference: Any = pytest.importorskip("onnx.reference")
    module = make_module(architecture=partial(SharedBottom, encoder=TabularEncoder), input_spec=SPEC).eval()
    inputs = {"numeric": torch.randn(3, 2), "categorical": torch.tensor([[1], [4], [0]])}
    module.to_onnx(tmp_path / "table.onnx", inputs, dynamo=False, input_names=["numeric", "categorical"])
    saved = reference.ReferenceEvaluator(onnx.load(tmp_path / "table.onnx"))
    found = saved.run(None, {name: value.numpy() for name, value in inputs.items()})
    for output, expected in zip(found, module(inputs).values(), strict=True):
        torch.testing.assert_close(torch.as_tensor(output), expected.detach(), rtol=1e-5, atol=1e-5)
