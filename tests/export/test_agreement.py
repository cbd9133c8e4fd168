"""What is exported gives the answers of `predict`: all architectures and encoders, tables, pictures, dicts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mtl_lightning import Network
from mtl_lightning.architectures import (
    PLE,
    CrossStitch,
    Encoder,
    LeNet,
    MMoE,
    Product,
    SegNet,
    SharedBottom,
    TabularEncoder,
)
from mtl_lightning.export import Exported, export_network
from mtl_lightning.exported import ExportedFolder
from mtl_lightning.types import InputSpec, TargetSpec, TensorSpec
from tests.contracts.architecture_cases import ARCHITECTURES, ENCODERS, LISTS, ONE_OF_EACH, rows
from tests.cover import thinned
from tests.export.networks import (
    SMALL,
    TABLE,
    TWO_INPUTS,
    Tags,
    TwoInputs,
    maps,
    network,
    on_a_table,
    two_tasks,
    yes_or_no,
)

FORMATS: list[Any] = ["onnx", "pt2"]


class Own(nn.Module):
    """A user's encoder of a table, with a normalisation and a residual."""

    out_features = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.LazyLinear(6), nn.BatchNorm1d(6), nn.Linear(6, 6)
        self.first(torch.zeros(2, 5))

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        numbers = torch.where(inputs["numeric"].isnan(), 0.0, inputs["numeric"])
        hidden = self.norm(self.first(torch.cat([numbers, inputs["categorical"] / 4], dim=1)))
        result: torch.Tensor = hidden + self.second(hidden).relu()
        return result


def calibrated(made: Network) -> Network:
    """A network with a calibration of every kind."""
    made.calibration = {
        "kind": {"method": "temperature", "temperature": 3.0},
        "sold": {"method": "isotonic", "x": [[-1.0, 0.0, 2.0]], "y": [[0.1, 0.3, 0.9]]},
        "price": {"method": "conformal", "coverage": 0.9, "half_width": [20.0], "by": None, "groups": {}},
    }
    return made


ON_TABLES = {
    "SharedBottom": lambda: calibrated(on_a_table(reads={"price": ["sold", "kind"]})),
    "MMoE": lambda: on_a_table(partial(MMoE, encoder=SMALL, num_experts=2), tasks=two_tasks()),
    "PLE": lambda: on_a_table(partial(PLE, encoder=partial(TabularEncoder, hidden=(4,))), tasks=two_tasks()),
    "CrossStitch": lambda: on_a_table(partial(CrossStitch, encoder=SMALL), tasks=two_tasks()),
    "Product": lambda: network(yes_or_no(), partial(Product, architecture=partial(SharedBottom, encoder=SMALL)), TABLE),
    "own": lambda: on_a_table(partial(SharedBottom, encoder=Own()), tasks=two_tasks()),
}


def agreed(made: Network, folder: Path, format: Any) -> Exported:
    """Export, and run what was written on rows of its own, among them one alone."""
    found = export_network(made, folder, format)
    assert max(one.size for one in found.differences.values()) <= 1e-5
    assert found.rows >= 2
    return found


IN_ONNX = ("SharedBottom", "MMoE", "Product", "own")
"""Of which the default tests try the costlier format; of the others, and of SharedBottom, the cheaper one."""


def case(name: str, format: str) -> Any:
    by_default = (format == "onnx") == (name in IN_ONNX) or name == "SharedBottom"
    return pytest.param(name, format, marks=() if by_default else pytest.mark.slow)


@pytest.mark.parametrize(("name", "format"), [case(name, format) for name in ON_TABLES for format in FORMATS])
def test_tables_with_gaps_and_unknown_values(name: str, format: Any, tmp_path: Path) -> None:
    made = ON_TABLES[name]()
    assert agreed(made, tmp_path / "out", format).rows == 500
    random = np.random.default_rng(1)  # other rows than those that it was compared on
    inputs: dict[str, Any] = {
        "numeric": random.normal(size=(500, 3)).astype(np.float32),
        "categorical": np.stack([random.integers(0, n, 500) for n in (9, 4)], 1),
    }
    inputs["numeric"][random.random((500, 3)) < 0.2] = np.nan
    found = ExportedFolder(tmp_path / "out").model.run(inputs)
    predicted = made.predict({name: torch.from_numpy(part) for name, part in inputs.items()})
    assert list(found) == list(made.tasks)
    for task, values in predicted.items():
        of_a_kind = values["probability"] if isinstance(values, dict) else values
        scale = 100.0 if task in ("price", "when") else 1.0
        np.testing.assert_allclose(found[task], of_a_kind.numpy(), rtol=0, atol=1e-5 * scale)
        assert found[task].dtype == (np.float64 if task == "when" else np.float32)


@pytest.mark.parametrize("format", FORMATS)
def test_tables_with_lists(format: Any, tmp_path: Path) -> None:
    made = network(two_tasks(), partial(MMoE, encoder=SMALL, num_experts=2), LISTS)
    agreed(made, tmp_path / "out", format)
    model = ExportedFolder(tmp_path / "out").model
    assert list(model.inputs) == ["numeric", "categorical", "lists"]
    inputs = rows(LISTS, 200)
    found = model.run({name: part.numpy() for name, part in inputs.items()})
    np.testing.assert_allclose(found["price"], made.predict(inputs)["price"].numpy(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("format", FORMATS)
def test_pictures(format: Any, tmp_path: Path) -> None:
    digits = partial(SharedBottom, encoder=partial(LeNet, channels=(4, 6), width=8))
    agreed(network(yes_or_no(), digits, TensorSpec((1, 16, 16))), tmp_path / "out", format)


@pytest.mark.parametrize("format", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_maps_of_pixels(format: Any, tmp_path: Path) -> None:
    pixels = partial(SharedBottom, encoder=partial(SegNet, widths=(2, 3)))
    agreed(network(maps((33, 40)), pixels, TensorSpec((3, 33, 40))), tmp_path / "out", format)


@pytest.mark.parametrize("format", FORMATS)
def test_dicts_with_sizes_that_vary_and_a_task_of_ones_own(format: Any, tmp_path: Path) -> None:
    made = network({"tags": Tags(TargetSpec(classes=3))}, partial(SharedBottom, encoder=TwoInputs()), {**TWO_INPUTS})
    agreed(made, tmp_path / "out", format)
    model = ExportedFolder(tmp_path / "out").model
    assert list(model.inputs) == ["picture", "words"]
    assert list(model.outputs) == ["tags.probability", "tags.label", "tags.logits"]
    inputs = {"picture": torch.randn(3, 3, 20, 13), "words": torch.randint(0, 20, (3, 5))}
    found = model.run({name: part.numpy() for name, part in inputs.items()}, ["tags.logits"])
    np.testing.assert_allclose(found["tags.logits"], made(inputs)["tags"].detach(), atol=1e-5)


def picked(factory: Any, spec: InputSpec) -> Network:
    """A network with tasks that fit the features."""
    made = Network(yes_or_no(), factory, spec)
    sizes = made.architecture.feature_sizes.values()
    dense = [size for size in sizes if len(size) == 3]
    return network(maps(dense[0][1:]) if dense else yes_or_no(), factory, spec)


OTHERS = thinned(
    (pair for pair in ARCHITECTURES if str(pair.id).endswith("-8") and str(pair.id)[:-2] not in ON_TABLES), 2
)


@pytest.mark.parametrize(("factory", "spec"), OTHERS)
def test_every_other_architecture(factory: Any, spec: InputSpec, tmp_path: Path) -> None:
    agreed(picked(factory, spec), tmp_path / "out", "pt2")


def test_no_architecture_is_left_out() -> None:
    tried = {str(pair.id)[:-2] for pair in OTHERS} | {*ON_TABLES} - {"own"}
    assert tried == {str(pair.id).partition("-")[0] for pair in ONE_OF_EACH}


PARTS = [pair for pair in [*ARCHITECTURES, *ENCODERS] if "SegNet" not in str(pair.id)]
"""Of SegNet a small one is above: with the random weights of 13 layers, rounding decides which pixel is the largest."""


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("factory", "spec"), PARTS)
def test_every_part_on_everything(factory: Any, spec: InputSpec, format: Any, tmp_path: Path) -> None:
    is_encoder = isinstance(factory, type) and issubclass(factory, Encoder)
    agreed(picked(partial(SharedBottom, encoder=factory) if is_encoder else factory, spec), tmp_path / "out", format)
