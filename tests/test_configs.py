"""Every shipped config runs, tests and predicts through the real command line."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types

from mtl_lightning import data as datasets
from tests.cli import CONFIGS, only, run
from tests.cover import thinned
from tests.data import make_tables


def data_of(config: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(config.read_text())["data"]
    return found


def on_made_files(config: Path, folder: Path) -> list[str]:
    """Options that give a dataset with a `root` small files of ours, from `tests/data/datasets/fake_<its file>.py`,
    which may name more options, that make a config quick, in `SMALL`; a table's files are written where the config
    looks for them, by `tests.data.make_tables.<its name>`."""
    data = data_of(config)
    if data["class_path"] == "TableData":
        getattr(make_tables, config.stem)(Path.cwd())
        return []
    name = f"tests.data.datasets.fake_{getattr(datasets, data['class_path']).__module__.rpartition('.')[2]}"
    fake = importlib.import_module(name) if importlib.util.find_spec(name) else None
    small: list[str] = getattr(fake, "SMALL", [])
    if fake is None or "root" not in data.get("init_args", {}):
        return small
    arguments = fake.arguments(folder)
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in arguments.items()}
    return [*small, *(f"--data.init_args.{name}={text}" for name, text in texts.items())]


EVERY = sorted(path for path in CONFIGS.glob("*.yaml") if "base" not in yaml.safe_load(path.read_text()))
"""Those of one run; others run many, and `tests/study` tries them."""
FIRST = {data_of(path)["class_path"]: path for path in reversed(EVERY)}.values()
"""The first config of each dataset, of which every other runs by default; all others run under ``slow``."""
every_config = pytest.mark.parametrize("config", EVERY, ids=lambda path: path.stem)


@pytest.mark.parametrize("config", thinned([pytest.param(path, id=path.stem) for path in FIRST], 2))
def test_a_config_runs(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains, validates, tests and predicts, on a few batches each."""
    limits = [f"--trainer.limit_{stage}_batches=3" for stage in ("train", "val", "test", "predict")]
    short = ["--trainer.max_epochs=1", *limits, "--trainer.accelerator=cpu"]
    made = on_made_files(config, tmp_path / "made")
    run(monkeypatch, "fit", "--config", str(config), *made, *short, "--test_after_fit=true")
    checkpoint = f"--ckpt_path={only(tmp_path, 'last.ckpt')}"
    run(monkeypatch, "predict", "--config", str(config), *made, *short, checkpoint)
    check_predictions(tmp_path)


@pytest.mark.slow
@every_config
def test_every_command_takes_a_config(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.accelerator=cpu"]
    made = on_made_files(config, tmp_path / "made")
    run(monkeypatch, "fit", "--config", str(config), *made, *short)
    checkpoint = f"--ckpt_path={only(tmp_path, 'last.ckpt')}"
    for subcommand in ("validate", "test", "predict"):
        run(monkeypatch, subcommand, "--config", str(config), *made, checkpoint)
    check_predictions(tmp_path)


def check_predictions(folder: Path) -> None:
    written = list(folder.rglob("predictions*.parquet"))  # several dataloaders give a file each
    written += folder.rglob("predictions/*/0.npy")  # dense tasks
    assert written
    assert all(path.stat().st_size > 0 for path in written)


@pytest.mark.slow
@every_config
def test_a_shipped_config_shows_no_symptom(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mtl_lightning.types import MtlLightningWarning

    if "root" in data_of(config).get("init_args", {}) or data_of(config)["class_path"] == "TableData":
        pytest.skip("the real files are needed")
    with warnings.catch_warnings():
        warnings.simplefilter("error", MtlLightningWarning)
        run(monkeypatch, "fit", "--config", str(config), "--trainer.accelerator=cpu")
