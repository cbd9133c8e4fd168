"""The saved configuration: where it goes, and that it takes nobody's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types

from tests.cli import run

MINE = """# my notes
model: {architecture: {class_path: SharedBottom, init_args: {encoder: {class_path: MLP, init_args: {hidden: [2]}}}}}
data: {class_path: SyntheticRegression, init_args: {n: 12, batch_size: 4}}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""


def configs(folder: Path = Path()) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("config*.yaml"))


def fit(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    Path("config.yaml").write_text(MINE)
    run(monkeypatch, "fit", "--config", "config.yaml", *options)
    assert Path("config.yaml").read_text() == MINE


def test_it_is_saved_with_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(monkeypatch)
    assert configs() == ["config.yaml", "lightning_logs/version_0/config.yaml"]
    saved: Any = yaml.safe_load(Path("lightning_logs/version_0/config.yaml").read_text())
    assert saved["data"]["init_args"]["n"] == 12


@pytest.mark.parametrize("root", ["", "--trainer.default_root_dir=."])
def test_without_a_logger_it_is_saved_with_the_checkpoints(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    fit(monkeypatch, "--trainer.logger=false", *[root] * bool(root))
    assert configs() == ["checkpoints/config.yaml", "config.yaml"]


def test_without_either_it_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(monkeypatch, "--trainer.logger=false", "--trainer.enable_checkpointing=false")
    assert configs() == ["config.yaml"]


HERE = "--trainer.callbacks+={class_path: ModelCheckpoint, init_args: {dirpath: .}}"


def test_a_file_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(monkeypatch, "--trainer.logger=false", HERE)
    assert configs() == ["config-v1.yaml", "config.yaml"]
    first = Path("config-v1.yaml").read_text()
    fit(monkeypatch, "--trainer.logger=false", HERE)  # the same once more
    assert configs() == ["config-v1.yaml", "config.yaml"]
    fit(monkeypatch, "--trainer.logger=false", HERE, "--trainer.max_epochs=2")
    assert configs() == ["config-v1.yaml", "config-v2.yaml", "config.yaml"]
    assert Path("config-v1.yaml").read_text() == first
    assert yaml.safe_load(Path("config-v2.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_other_loggers_have_a_folder_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(monkeypatch, "--trainer.logger={class_path: CSVLogger, init_args: {save_dir: logs, name: run, version: a}}")
    assert configs() == ["config.yaml", "logs/run/a/config.yaml"]


def test_a_prediction_without_a_logger_saves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(monkeypatch)
    (checkpoint,) = Path().rglob("last.ckpt")
    options = ("--trainer.logger=false", f"--ckpt_path={checkpoint}")
    run(monkeypatch, "predict", "--config", "config.yaml", *options)
    assert configs() == ["config.yaml", "lightning_logs/version_0/config.yaml"]
