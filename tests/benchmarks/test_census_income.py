"""The runs over several seeds find their metrics, and leave nothing in the current folder."""

from __future__ import annotations

from pathlib import Path

from benchmarks import census_income, shipped_config
from tests.data.make_tables import write_census


def test_a_run_finds_the_metrics_of_both_halves_and_leaves_no_files(tmp_path: Path) -> None:
    root = write_census(tmp_path / "root")
    found, _ = shipped_config.train("census_income", str(root), 2, ["--trainer.max_epochs=1"])
    assert {f"{split}/auroc/{task}" for split in ("val", "test") for task in census_income.TASKS} <= found.keys()
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
