"""The same answers from a checkpoint, from its exports in both formats, and over HTTP, whatever the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_lightning import Predictor
from mtl_lightning.architectures import PLE, CrossStitch, MMoE, Product, SharedBottom, TabularEncoder
from mtl_lightning.data import TargetColumn
from tests.serve.conftest import Running
from tests.serve.houses import exported, rows
from tests.serve.test_server import asked

ENCODER = partial(TabularEncoder, hidden=(8,))
YES_OR_NO = {
    "sold": TargetColumn(),
    "art": TargetColumn(column="style", positive=["art"]),
    "dear": TargetColumn(column="price", at_least=320_000.0),
}


class Own(nn.Module):
    """A user's encoder of the table."""

    out_features = (6,)

    def __init__(self) -> None:
        super().__init__()
        self.map, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        known = torch.nan_to_num(inputs["numeric"])
        hidden: Tensor = self.norm(self.map(torch.cat([known, inputs["categorical"].to(known.dtype)], dim=1))).relu()
        return hidden


ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    "SharedBottom": (partial(SharedBottom, encoder=ENCODER), None),
    "MMoE": (partial(MMoE, encoder=ENCODER, num_experts=3), None),
    "PLE": (partial(PLE, encoder=ENCODER), None),
    "CrossStitch": (partial(CrossStitch, encoder=ENCODER), None),
    "Product": (partial(Product, architecture=partial(SharedBottom, encoder=ENCODER)), YES_OR_NO),
    "a user's encoder": (partial(SharedBottom, encoder=Own), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_ways_give_the_same_answers(name: str, tmp_path: Path) -> None:
    """On 500 rows with gaps and unknown values: to 1e-5 in probabilities, and of a price's standard deviation."""
    architecture, targets = ARCHITECTURES[name]
    some = rows(500, seed=2)
    options: Any = {"on_unknown": "ignore"}
    found: dict[str, list[Any]] = {}
    for format in ("onnx", "pt2"):
        folder = exported(tmp_path, architecture, targets, format)
        found[format] = Predictor.from_export(folder / "exported", **options)(some).to_list()
    trusted: Any = {"trusted": [__name__]} if name == "a user's encoder" else {}
    served = ["--model", "last.ckpt", *(["--trusted", f"[{__name__}]"] if trusted else [])]
    expected = Predictor.from_checkpoint(tmp_path / "last.ckpt", **options, **trusted)(some).to_list()
    running = Running(served, tmp_path / "log.txt", tmp_path)
    try:
        found["HTTP"] = asked(running, some)
        assert running.stop() == 0
    finally:
        running.kill()
    for way, answers in found.items():
        assert len(answers) == 500
        for row, (one, other) in enumerate(zip(answers, expected, strict=True)):
            assert_same_answer(one, other, f"{way}, row {row}")


def assert_same_answer(found: Any, expected: Any, where: str) -> None:
    assert found.keys() == expected.keys()
    for task, answer in expected.items():
        if "value" in answer:
            assert abs(found[task]["value"] - answer["value"]) <= 1e-5 * 9e4, f"{where}, {task}"
            continue
        for name, probability in answer["probabilities"].items():
            assert abs(found[task]["probabilities"][name] - probability) <= 1e-5, f"{where}, {task}"
