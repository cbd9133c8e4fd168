"""The texts of a run in real event files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from mtl_lightning import Schedule
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.callbacks import RunText
from mtl_lightning.core.network import Edge
from tests.cli import CONFIGS, SMALL, only
from tests.cli import run as run_command
from tests.helpers import TinyData, fit, make_module


def texts(folder: Path) -> dict[str, str]:
    events = EventAccumulator(str(folder))
    events.Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        if tag.startswith("run/"):
            (event,) = events.Tensors(tag)
            found[tag.removesuffix("/text_summary")] = event.tensor_proto.string_val[0].decode()
    return found


def table(text: str) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "|" in line]
    header, _, *rows = lines
    return [dict(zip(header, row + [""] * len(header), strict=False)) for row in rows]


@pytest.fixture
def found(tmp_path: Path) -> tuple[Any, dict[str, str]]:
    module = make_module(
        balancer=UncertaintyWeighting,
        reads={"kind": ["number"], "vector": {"kind": Edge(stop_gradient=False)}},
        optimizers={
            "default": partial(Adam, lr=2e-3),
            "kind": partial(SGD, lr=0.25),
            "balancer": partial(Adam, lr=0.01),
        },
        schedulers={"kind": Schedule(partial(CosineAnnealingLR, T_max=5))},
        gradient_clip={"kind": 0.5},
    )
    fit(module, TinyData(n=24), precision="32-true", logger=TensorBoardLogger(tmp_path), callbacks=[RunText()])
    return module, texts(next(tmp_path.rglob("version_0")))


def test_the_task_graph_is_in_words(found: tuple[Any, dict[str, str]]) -> None:
    text = found[1]["run/tasks"]
    rows = {row["task"]: row for row in table(text)}
    assert list(rows) == ["number", "kind", "vector"]
    assert rows["kind"]["reads the estimate of"] == "number (gradient stops)"
    assert rows["vector"]["reads the estimate of"] == "kind (gradient passes)"
    assert rows["number"]["is read by"] == "kind"
    assert (rows["kind"]["kind"], rows["kind"]["outputs"]) == ("MulticlassClassification", "4")
    assert text.endswith("Estimates as features: number → kind, kind → vector")


def test_the_groups_have_their_sizes_and_rates(found: tuple[Any, dict[str, str]]) -> None:
    module, said = found
    rows = {row["group"]: row for row in table(said["run/groups"])}
    assert list(rows) == list(module.groups)
    for name, row in rows.items():
        assert int(row["parameters"].replace(",", "")) == sum(p.numel() for p in module.groups[name].values())
    assert [rows[name]["rate"] for name in ("shared", "kind", "balancer")] == ["0.002", "0.25", "0.01"]
    assert [rows[name]["optimizer"] for name in ("shared", "kind")] == ["Adam", "SGD"]
    assert (rows["kind"]["schedule"], rows["kind"]["largest gradient norm"]) == ("CosineAnnealingLR", "0.5")
    assert rows["shared"]["schedule"] == ""


def test_a_run_in_python_has_what_module_and_data_were_made_with(found: tuple[Any, dict[str, str]]) -> None:
    text = found[1]["run/config"]
    config = yaml.safe_load(text.removeprefix("```yaml\n").removesuffix("```"))
    assert config["model"]["optimizers"]["kind"]["init_args"]["lr"] == 0.25
    assert config["data"]["init_args"]["n"] == 24


def test_a_run_of_the_command_line_has_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--test_after_fit=false")
    run_command(monkeypatch, "fit", "--config", str(CONFIGS / "multidigit.yaml"), *SMALL, *options)
    folder = only(tmp_path, "config.yaml").parent
    text = texts(folder)["run/config"].removeprefix("```yaml\n").removesuffix("```")
    whole = yaml.safe_load((folder / "config.yaml").read_text())
    config = yaml.safe_load(text)
    assert config["model"]["balancer"] == whole["model"]["balancer"]
    assert config["trainer"]["limit_train_batches"] == 1
    assert None not in config["trainer"].values()


def test_no_board_no_text(tmp_path: Path) -> None:
    loggers: Any
    for loggers in (CSVLogger(tmp_path), False):
        fit(make_module(), TinyData(n=24), precision="32-true", logger=loggers, callbacks=[RunText()])
    board = TensorBoardLogger(tmp_path / "board")
    fit(make_module(), TinyData(n=24), precision="32-true", logger=board, callbacks=[RunText(enabled=False)])
    assert texts(Path(board.log_dir)) == {}
