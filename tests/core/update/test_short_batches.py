"""A last batch of one row: what cannot train on it says so and names ``drop_last``, which helps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import SharedBottom
from mtl_lightning.balancing import Balancer, MoDo
from mtl_lightning.data import SyntheticRegression
from mtl_lightning.types import BatchError
from tests.cli import run
from tests.helpers import make_trainer


class Normalised(nn.Sequential):
    """Features with batch normalisation."""

    out_features = 5

    def __init__(self) -> None:
        super().__init__(nn.LazyLinear(5), nn.BatchNorm1d(5), nn.ReLU())


def normalised_head(size: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(size[0]), nn.Linear(size[0], outputs))


NEEDS_TWO: dict[str, tuple[dict[str, Any], str]] = {
    "MoDo": ({"balancer": MoDo}, r"splits each batch into 3 parts: .* found 1\. .* `drop_last: true`"),
    "BatchNorm1d": (
        {"architecture": partial(SharedBottom, encoder=Normalised)},
        r"batch normalisation: expected at least 2 rows .* found 1: .* `drop_last: true`",
    ),
    "BatchNorm1d in a head": (
        {"heads": {"default": normalised_head}},
        r"batch normalisation: expected at least 2 rows .* found 1: .* `drop_last: true`",
    ),
}


@pytest.mark.parametrize(("options", "message"), NEEDS_TWO.values(), ids=NEEDS_TWO)
@pytest.mark.parametrize("drop_last", [False, True])
def test_one_row_is_left(options: dict[str, Any], message: str, drop_last: bool) -> None:
    data = SyntheticRegression(n=101, batch_size=20, drop_last=drop_last)
    defaults: dict[str, Any] = {"architecture": SharedBottom, "balancer": Balancer}
    module = MultiTaskModule(data.tasks, input_spec=data.input_spec, **{**defaults, **options})
    trainer = make_trainer(precision="32-true", limit_val_batches=0)
    if drop_last:
        trainer.fit(module, data)
        assert trainer.global_step == 5
    else:
        with pytest.raises(BatchError, match=message):
            trainer.fit(module, data)


CONFIG = """
data:
  class_path: SyntheticRegression
  init_args:
    n: 101
    batch_size: 20
    drop_last: true
    tasks: {y1: {class_path: Regression, init_args: {metrics: {mse: {class_path: torchmetrics.MeanSquaredError}}}}}
model:
  architecture: {class_path: SharedBottom}
  heads: {y1: {class_path: torch.nn.Linear, init_args: {bias: false}}}
  groups: {trunk: "architecture.*", head: ["heads.y1.*"]}
  balancer: {class_path: torchjd.aggregation.UPGradWeighting}
trainer: {max_epochs: 1, accelerator: cpu, logger: false, enable_progress_bar: false, enable_model_summary: false}
"""


def test_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a layer of torch as a head, one pattern alone as a group, and a weighting of torchjd."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG)
    run(monkeypatch, "fit", "--config", "run.yaml")
    path = next(tmp_path.rglob("*.ckpt"))
    module = MultiTaskModule.load_from_checkpoint(path)
    assert module.by_code == {}
    assert torch.load(path, weights_only=True)["global_step"] == 5
    head: Any = module.heads
    assert (type(head["y1"]), head["y1"].bias) == (nn.Linear, None)
    assert {*module.groups} == {"trunk", "head", "y2"}
    assert SyntheticRegression.from_checkpoint(path).drop_last is True
