"""Every shipped config runs, tests and predicts through the real command line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.cli import CONFIGS, only, run


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_runs(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.accelerator=cpu"]
    run(monkeypatch, "fit", "--config", str(config), *short)
    checkpoint = f"--ckpt_path={only(tmp_path, '*.ckpt')}"
    for subcommand in ("validate", "test", "predict"):
        run(monkeypatch, subcommand, "--config", str(config), checkpoint)
    assert only(tmp_path, "predictions.parquet").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_shows_no_symptom(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtl_lightning.types import MtlLightningWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", MtlLightningWarning)
        run(monkeypatch, "fit", "--config", str(config), "--trainer.accelerator=cpu")
