"""What cannot be exported is named with the reason; what differs, or is in the way, leaves everything as it was."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import Network
from mtl_lightning.architectures import SharedBottom
from mtl_lightning.errors import ConfigurationError, ExportError
from mtl_lightning.export import export_network
from mtl_lightning.tasks import Regression
from mtl_lightning.types import TargetSpec, TensorSpec
from tests.export.networks import on_a_table
from tests.helpers import make_module


class Part(nn.Module):
    """A user's encoder of vectors (B, 4)."""

    out_features = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        mapped: Tensor = self.map(inputs)
        return mapped


class CountsRows(Part):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).view(len(inputs), 3)


class Branches(Part):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * (2 if inputs.sum() > 0 else 1)


class Fails(Part):
    def forward(self, inputs: Tensor) -> Tensor:
        raise RuntimeError("out of paper\nand ink")


class NotInOnnx(Part):
    def forward(self, inputs: Tensor) -> Tensor:
        mixed: Tensor = torch.linalg.eigvals(inputs.T @ inputs).real.sum()
        return super().forward(inputs) * mixed


class Random(Part):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + torch.rand_like(inputs[:, :3])


def with_part(part: nn.Module) -> Network:
    encoder = nn.Sequential(part, nn.ReLU())
    return Network({"y": Regression(TargetSpec())}, partial(SharedBottom, encoder=encoder), TensorSpec((4,)))


@pytest.mark.parametrize(
    ("part", "format", "message"),
    [
        (CountsRows, "pt2", r"'architecture.encoder.0' \(CountsRows\) .*number of rows a constant.*`x.shape\[0\]`"),
        (Branches, "pt2", r"'architecture.encoder.0' \(Branches\) .*values of its inputs.*test_refusals.py, {line}\."),
        (Fails, "pt2", r"'architecture.encoder.0' \(Fails\) .*RuntimeError: out of paper\. It arose .*, {line}\."),
        (NotInOnnx, "onnx", r"'architecture.encoder.0' \(NotInOnnx\) .*no operator for aten.linalg_eig"),
        (Random, "pt2", "difference of at most 1e-05, found y: .* of the target's standard deviation"),
    ],
)
def test_a_part_that_cannot_be_exported_is_named(part: Any, format: Any, message: str, tmp_path: Path) -> None:
    made = with_part(Part())
    cast("Any", made.architecture).encoder[0] = part()
    line = part.forward.__code__.co_firstlineno + 1
    with pytest.raises(ExportError, match=message.replace("{line}", f"line {line}")) as caught:
        export_network(made, tmp_path / "out", format)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_half_precision_and_networks_that_are_not_ready_are_refused(tmp_path: Path) -> None:
    made = with_part(Part())
    made.architecture.half()
    with pytest.raises(ExportError, match=r"expected weights in float32, found torch\.float16"):
        export_network(made, tmp_path / "out", "pt2")
    with pytest.raises(ConfigurationError, match="waits for the sizes"):
        export_network(make_module(input_spec=None), tmp_path / "out", "pt2")
    with pytest.raises(ConfigurationError, match="fit_target"):
        export_network(make_module(tasks={"y": Regression(TargetSpec(), standardize=True)}), tmp_path / "out", "pt2")


def test_what_is_there_already_is_kept_unless_it_is_an_export(tmp_path: Path) -> None:
    made = on_a_table()
    for name in ("notes.txt", "out/thesis.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("precious")
        folder = tmp_path / name.partition("/")[0]
        with pytest.raises(ExportError, match="expected a new folder, or an older export"):
            export_network(made, folder, "pt2")
        assert (tmp_path / name).read_text() == "precious"
    export_network(made, tmp_path / "new", "pt2")
    first = (tmp_path / "new/model.pt2").read_bytes()
    export_network(on_a_table(seed=1), tmp_path / "new", "pt2")
    assert (tmp_path / "new/model.pt2").read_bytes() != first
    (tmp_path / "new/mine.txt").write_text("precious")
    with pytest.raises(ExportError, match=r"mine\.txt"):
        export_network(made, tmp_path / "new", "pt2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "notes.txt", "out"]


@pytest.mark.parametrize(
    "rows", ["text", [], {"numeric": torch.zeros(0, 3)}, {"a": torch.zeros(2), "b": torch.zeros(3)}]
)
def test_rows_that_are_none_are_refused(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="`rows`: expected inputs as in a batch"):
        export_network(on_a_table(), tmp_path / "out", "pt2", rows)


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    made = on_a_table().train()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    export_network(made, tmp_path / "out", "pt2")
    assert all(module.training for module in made.modules())
    assert all(parameter.requires_grad for parameter in made.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


def test_torchscript_says_what_to_use() -> None:
    with pytest.raises(ConfigurationError, match=r"module.export\(folder, format='pt2'\)"):
        make_module().to_torchscript()


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_told_with_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"needs {package}.*pip install 'mtl-lightning\[export\]'"):
        export_network(on_a_table(), tmp_path / "out", "onnx")
