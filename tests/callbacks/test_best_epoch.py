"""Best means best: which epoch the command line keeps, tests and stops at, with real runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor

from mtl_lightning import MultiTaskModule
from mtl_lightning.callbacks.best_epoch import BestModelCheckpoint, added_callbacks
from mtl_lightning.core.update.best_validation import MONITOR
from mtl_lightning.tasks import Regression
from mtl_lightning.types import Batch, TargetSpec
from tests.cli import only
from tests.cli import run as run_program
from tests.helpers import fit, loader_of, make_module

EPOCHS = 6


def rows(rows: int, seed: int, sign: float) -> list[Batch]:
    """``large``, of scale 100, can be learned; ``small`` has in validation the opposite of what it trains on."""
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 4, generator=random)
    targets = {"large": 100 * inputs[:, 0], "small": sign * inputs[:, 1]}
    pieces = range(0, rows, 8)
    return [{"inputs": inputs[i : i + 8], "targets": {n: t[i : i + 8] for n, t in targets.items()}} for i in pieces]


TRAIN, HELD_OUT = rows(64, 0, 1.0), rows(32, 1, -1.0)


class Opposed(LightningDataModule):
    """A datamodule that knows nothing of this library; ``validates`` and ``labels`` take its validation away."""

    def __init__(self, validates: bool = True, labels: bool = True) -> None:
        super().__init__()
        self.tasks = {"large": Regression(TargetSpec()), "small": Regression(TargetSpec())}
        self.validates, self.labels = validates, labels

    def train_dataloader(self) -> Any:
        return loader_of(TRAIN)

    def val_dataloader(self) -> Any:
        nothing = [{**b, "targets": {"small": b["targets"]["small"] * torch.nan}} for b in HELD_OUT]
        return loader_of(HELD_OUT if self.labels else nothing) if self.validates else []

    def test_dataloader(self) -> Any:
        return loader_of(HELD_OUT)


YAML = f"""
seed_everything: 0
test_after_fit: true
data: {{class_path: {Opposed.__module__}.Opposed}}
model:
  architecture:
    class_path: SingleTaskNetworks
    init_args: {{encoder: {{class_path: MLP, init_args: {{hidden: [16]}}}}}}
  optimizers: {{default: {{class_path: Adam, init_args: {{lr: 0.02}}}}}}
trainer: {{max_epochs: {EPOCHS}, accelerator: cpu, logger: false, enable_progress_bar: false}}
"""
NO_VALIDATION = [["--data.validates=false"], ["--data.labels=false"], ["--trainer.limit_val_batches=0"]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in a folder of its own; return what it printed."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(YAML)

    def go(*options: str, command: str = "fit") -> str:
        run_program(monkeypatch, command, "--config=run.yaml", *options)
        return capsys.readouterr().out

    return go


def epoch_of(path: Path) -> int:
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    return int(saved["epoch"])


def kept() -> list[str]:
    return sorted(path.name for path in Path().rglob("*.ckpt"))


# --------------------------------------------------------------------------------------------------- what a run keeps
def test_the_large_scale_does_not_decide(run: Any) -> None:
    said = run()
    best = only(Path(), "epoch=*.ckpt")
    assert kept() == [best.name, "last.ckpt"]
    assert epoch_of(best) == 0
    assert epoch_of(only(Path(), "last.ckpt")) == EPOCHS - 1
    (line,) = [line for line in said.splitlines() if line.startswith("Test of")]
    assert re.fullmatch(rf"Test of epoch 0 \(update 8\), the best by `{MONITOR}` \(\d\.\d+\): .*{best.name}", line)
    by_sum = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)  # what the plain sum says of the two
    losses = []
    for path in (best, only(Path(), "last.ckpt")):
        by_sum.validate(MultiTaskModule.load_from_checkpoint(path), datamodule=Opposed(), verbose=False)
        losses.append({name: float(value) for name, value in by_sum.callback_metrics.items()})
    assert losses[0]["val/loss"] > losses[1]["val/loss"]
    assert losses[0][MONITOR] < losses[1][MONITOR]


def test_the_table_is_of_the_best_epoch(run: Any) -> None:
    said = run()
    again = run("--ckpt_path=best", command="test")
    table = r"task +labels[\s\S]*?small.*"
    (first,), (second,) = re.findall(table, said), re.findall(table, again)
    assert first == second
    assert "Test of epoch 0 (update 8), the best by `val/loss_normalised`" in again
    assert "when it was saved: " in again
    last = run("--ckpt_path=last", command="test")
    assert f"Test of epoch {EPOCHS - 1} (update {8 * EPOCHS}), the last when it was saved: " in last
    assert re.findall(table, last) != [first]


@pytest.mark.parametrize("options", NO_VALIDATION)
def test_without_a_validation_the_last_is_kept(options: list[str], run: Any) -> None:
    said = run(*options)
    assert kept() == [f"epoch={EPOCHS - 1}-step={8 * EPOCHS}.ckpt", "last.ckpt"]
    assert f"Test of epoch {EPOCHS - 1} (update {8 * EPOCHS}), the last: " in said


def test_a_checkpoint_of_the_users_own_is_as_before(run: Any) -> None:
    said = run('--trainer.callbacks+={"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss"}}')
    (name,) = kept()
    assert epoch_of(only(Path(), name)) == EPOCHS - 1
    assert f"Test of epoch {EPOCHS - 1} (update {8 * EPOCHS}), the best by `val/loss` (" in said


def test_without_checkpoints_none_is_written(run: Any) -> None:
    assert "Test of the weights at the end of training:" in run("--trainer.enable_checkpointing=false")
    assert not kept()


def test_a_resumed_run_remembers_the_best_of_before(run: Any) -> None:
    run("--trainer.default_root_dir=a", "--trainer.max_epochs=2")
    said = run("--trainer.default_root_dir=b", f"--ckpt_path={only(Path('a'), 'last.ckpt')}")
    assert "Test of epoch 0 (update 8), the best by `val/loss_normalised`" in said
    assert [path.name for path in Path("b").rglob("*.ckpt")] == ["last.ckpt"]
    assert len(list(Path("a").rglob("*.ckpt"))) == 2
    only(Path("a"), "epoch=0*.ckpt").unlink()  # then the best of what is there
    said = run("--trainer.default_root_dir=c", f"--ckpt_path={only(Path('a'), 'last.ckpt')}")
    assert f"Test of epoch {epoch_of(only(Path('c'), 'epoch=*.ckpt'))} (" in said


@pytest.mark.parametrize(
    ("options", "others", "adds"),
    [
        ({}, [], True),
        ({"callbacks": None, "enable_checkpointing": True}, [], True),
        ({"callbacks": [EarlyStopping("val/loss")]}, [OnExceptionCheckpoint("a")], True),
        ({"callbacks": ModelCheckpoint()}, [], False),
        ({}, [ModelCheckpoint()], False),
        ({"enable_checkpointing": False}, [], False),
        ({"barebones": True}, [], False),
    ],
)
def test_when_it_is_added(options: Any, others: Any, adds: bool) -> None:
    assert [type(callback) for callback in added_callbacks(options, others, None)] == [BestModelCheckpoint] * adds


# ------------------------------------------------------------------------------------------------------ early stopping
def test_one_short_key_stops_early(run: Any) -> None:
    run("--early_stopping=2")
    assert epoch_of(only(Path(), "last.ckpt")) == 2  # epoch 0 was the best, two were not
    assert epoch_of(only(Path(), "epoch=*.ckpt")) == 0


@pytest.mark.parametrize("patience", ["0", "1.5"])
def test_other_patience_is_refused(patience: str, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(f"--early_stopping={patience}")
    assert end.value.code == 2
    assert "early_stopping" in capsys.readouterr().err


@pytest.mark.parametrize("options", NO_VALIDATION[:2])
def test_early_stopping_without_a_validation_is_refused(options: list[str], run: Any) -> None:
    with pytest.raises(SystemExit, match=r"`early_stopping` watches `val/loss_normalised`: expected validations with"):
        run("--early_stopping=2", *options)


# ------------------------------------------------------------------------------------------------------------ in Python
def test_lightnings_own_callbacks_can_monitor_it() -> None:
    best = ModelCheckpoint("saved", monitor=MONITOR)
    stopping = EarlyStopping(MONITOR, patience=1)
    data = Opposed()
    module = make_module(tasks=data.tasks, optimizers={"default": lambda p: torch.optim.Adam(p, lr=0.02)})
    trainer = fit(module, data, max_epochs=EPOCHS, callbacks=[best, stopping], precision="32-true")
    assert best.best_model_score is not None
    assert stopping.best_score == best.best_model_score
    assert trainer.current_epoch < EPOCHS
    target: Tensor = torch.cat([batch["targets"]["large"] for batch in TRAIN])
    assert module.trivial_predictions is not None
    assert module.trivial_predictions["large"].item() == pytest.approx(float(target.double().mean()))
