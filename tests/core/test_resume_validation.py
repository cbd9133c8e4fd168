"""A validation that was due, or under way, when a checkpoint was written is run when the run is resumed from it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from mtl_lightning.core.compat.validations import plan_validation
from tests.core.test_resume import EPOCHS, assert_same_end, build
from tests.helpers import fit

HERE = Path("saved/here.ckpt")


class NotingCheckpoint(Checkpoint):
    """Notes the hooks of a run, and saves where it is told to: at the n-th call of a hook in the second epoch.

    As a checkpoint callback it is called after the others.
    """

    def __init__(self, hook: str = "", call: int = 0) -> None:
        self.place = (hook, call)
        self.hooks: list[str] = []
        self.after: int | None = None

    def note(self, trainer: Trainer, hook: str) -> None:
        if trainer.sanity_checking:
            return
        self.hooks.append(f"{trainer.current_epoch} {hook}")
        if self.hooks[-1] == f"1 {self.place[0]}" and self.hooks.count(self.hooks[-1]) == self.place[1]:
            trainer.save_checkpoint(HERE)
            self.after = len(self.hooks)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer, "epoch start")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.note(trainer, "batch")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer, "validation start")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.note(trainer, "validation batch start")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.note(trainer, "validation batch")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.note(trainer, "epoch")


class Run:
    """A run that validates, stops early, keeps the two best checkpoints and logs; of four epochs of eight batches."""

    def __init__(self, noted: NotingCheckpoint, resume: bool = False, **options: Any) -> None:
        self.noted = noted
        self.stopping = EarlyStopping("val/loss", patience=4, min_delta=0.05)
        self.best = ModelCheckpoint(
            "saved/best", monitor="val/loss", save_top_k=2, filename="{step}", enable_version_counter=False
        )
        self.logger = CSVLogger("logs", version=int(resume))
        module, data = build(99 if resume else 0)
        callbacks = [self.stopping, self.best, noted]
        options = {"max_epochs": EPOCHS, "logger": self.logger, "log_every_n_steps": 1, **options}
        trainer = fit(module, data, ckpt_path=str(HERE) if resume else None, callbacks=callbacks, **options)
        self.end = module, trainer

    def rows(self) -> list[dict[str, str]]:
        with open(f"{self.logger.log_dir}/metrics.csv") as file:
            return [{key: text for key, text in row.items() if text} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("hook", "call", "options"),
    [
        pytest.param("batch", 8, {}, id="after the epoch's last batch"),
        pytest.param("batch", 8, {"accumulate_grad_batches": 3}, id="after the epoch's last window"),
        pytest.param("validation start", 1, {}, id="before the validation"),
        pytest.param("validation batch start", 1, {}, id="at its first batch"),
        pytest.param("validation batch start", 2, {}, id="at a batch"),
        pytest.param("validation batch", 2, {}, id="after a batch of it"),
        pytest.param("validation batch", 3, {}, id="after its last batch"),
        pytest.param("validation", 1, {}, id="after the validation"),
        pytest.param("epoch", 1, {}, id="after the epoch"),
        pytest.param("batch", 4, {"val_check_interval": 0.5}, id="inside an epoch, before a validation"),
        pytest.param("validation batch", 1, {"val_check_interval": 0.5}, id="inside an epoch, during a validation"),
        pytest.param("validation", 1, {"val_check_interval": 0.5}, id="inside an epoch, after a validation"),
        pytest.param("batch", 6, {"val_check_interval": 0.5}, id="inside an epoch, between validations"),
        pytest.param("epoch", 1, {"val_check_interval": 0.5}, id="after an epoch of two validations"),
        pytest.param(
            "batch", 4, {"val_check_interval": 6, "check_val_every_n_epoch": None}, id="before a validation by batches"
        ),
    ],
)
def test_a_resumed_run_validates_as_often(hook: str, call: int, options: dict[str, Any]) -> None:
    whole = Run(NotingCheckpoint(hook, call), **options)
    assert whole.noted.after is not None
    resumed = Run(NotingCheckpoint(), resume=True, **options)
    rest = whole.noted.hooks[whole.noted.after :]
    if hook.startswith("validation batch"):  # such a validation begins anew
        first = next(i for i, noted in enumerate(rest) if noted == "1 validation")
        again = resumed.noted.hooks.index("1 validation")
        assert resumed.noted.hooks[0] == "1 validation start"
        assert [n.endswith("validation batch") for n in resumed.noted.hooks[:again]].count(True) == 3
        assert resumed.noted.hooks[again:] == rest[first:]
    else:
        start = ["1 validation start"] if hook == "validation start" else []
        assert resumed.noted.hooks == start + rest
    assert_same_end(resumed.end, whole.end)
    assert resumed.stopping.state_dict() == whole.stopping.state_dict()
    assert resumed.best.best_k_models == whole.best.best_k_models
    assert len(whole.best.best_k_models) == 2
    rows = resumed.rows()
    assert rows == whole.rows()[-len(rows) :]


def test_the_comparison_sees_a_missing_validation() -> None:
    whole = Run(NotingCheckpoint("batch", 8))
    checkpoint = torch.load(HERE, weights_only=True)
    assert checkpoint["mtl_lightning"]["validation_is_due"]
    checkpoint["mtl_lightning"]["validation_is_due"] = False
    torch.save(checkpoint, HERE)
    resumed = Run(NotingCheckpoint(), resume=True)
    assert len(resumed.noted.hooks) < len(whole.noted.hooks[whole.noted.after or 0 :])
    with pytest.raises(AssertionError):
        assert_same_end(resumed.end, whole.end)


def test_a_run_resumed_without_validation_goes_on_with_the_next_epoch() -> None:
    Run(NotingCheckpoint("batch", 8))
    module, data = build(99)
    noted = NotingCheckpoint()
    module.plan._schedulers.pop("number")  # which watches the validation
    checkpoint = torch.load(HERE, weights_only=True)
    checkpoint["lr_schedulers"][0].pop("number")
    torch.save(checkpoint, HERE)
    fit(module, data, ckpt_path=str(HERE), callbacks=[noted], max_epochs=3, limit_val_batches=0)
    assert noted.hooks.count("2 batch") == 8
    assert not any("validation" in hook for hook in noted.hooks)


def test_the_counters_of_a_validation_that_is_over_agree() -> None:
    def counters(processed: int, completed: int) -> dict[str, Any]:
        both = {"ready": 4, "started": 4, "processed": processed, "completed": completed}
        return {"total": dict(both), "current": dict(both), "is_last_batch": True}

    loops = {"fit_loop": {"epoch_loop.batch_progress": counters(4, 4), "epoch_loop.val_loop.batch_progress": {}}}
    loops["fit_loop"]["epoch_loop.val_loop.batch_progress"] = counters(3, 3)
    plan_validation(loops, due=False)
    assert set(loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"].values()) == {3}
    assert loops["fit_loop"]["epoch_loop.batch_progress"] == counters(4, 4)
