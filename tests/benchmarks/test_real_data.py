"""The runs over several seeds find their metrics, and leave nothing in the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import real_data
from tests.data.make_tables import write_flights


def test_a_run_finds_the_metrics_of_both_splits_and_leaves_no_files(tmp_path: Path) -> None:
    root = write_flights(tmp_path / "root")
    found, reached = real_data.run("flights", str(root), 2, ["--trainer.max_epochs=1"])
    delays = [f"{metric}/{task}" for task in ("dep_delay", "arr_delay", "air_time") for metric in ("mae", "rmse")]
    assert [*reached] == [*delays, "auroc/cancelled"]
    assert {f"{split}/{tag}" for split in ("val", "test") for tag in reached} <= found.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_constants_are_those_of_the_training_labels() -> None:
    labels = {"price": (torch.tensor([0.0, 1.0, 8.0, torch.nan]), torch.tensor([2.0, torch.nan, 6.0]))}
    reached = real_data.constants(labels, ["mae/price", "rmse/price", "other/price"])
    assert reached == pytest.approx({"mae/price": 3.0, "rmse/price": (5**0.5)})  # |2-1|, |6-1|; (2-3)^2, (6-3)^2
