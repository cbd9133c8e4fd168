"""SIGTERM during training: the window is finished, a checkpoint written as the last one, and nothing is lost."""

from __future__ import annotations

import os
import signal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mtl_lightning import MultiTaskModule
from tests.core.checkpoint.test_resume import EPOCHS, assert_same_end, build
from tests.cover import covering
from tests.helpers import fit, make_trainer


class Terminated(Callback):
    """Sends SIGTERM to its own process before a batch of training or of the second epoch's validation."""

    def __init__(self, batch: int = 0, of_validation: bool = False) -> None:
        self.batch, self.of_validation = batch, of_validation
        self.validated = 0

    def send(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not self.of_validation and trainer.fit_loop.total_batch_idx + 1 == self.batch:
            self.send()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.validated += not trainer.sanity_checking
        if self.of_validation and trainer.current_epoch == 1 and batch_idx + 1 == self.batch:
            self.send()


def callbacks_of(*others: Callback, **options: Any) -> list[Callback]:
    best = ModelCheckpoint("saved", monitor="val/loss", enable_version_counter=False, **options)
    return [*others, EarlyStopping("val/loss", patience=3, min_delta=0.05), best]


MOMENTS: dict[str, tuple[tuple[Any, ...], int, int]] = {
    "inside an epoch": ((11,), 11, 1),
    "inside a window": ((10,), 4, 3),
    "at an epoch's end": ((16,), 16, 1),
    "at the very end": ((32,), 32, 1),
    "in a validation": ((2, True), 16, 1),
}
"""Where the run is terminated, the updates made by then, and the batches of an update."""


@pytest.mark.parametrize(("moment", "save_last"), covering([*product(MOMENTS, [False, True, "link"])], set))
def test_the_run_is_resumed_where_it_was_left(moment: str, save_last: Any) -> None:
    terminated, step, accumulate = MOMENTS[moment]
    options: dict[str, Any] = {"max_epochs": EPOCHS, "accumulate_grad_batches": accumulate}
    module, data = build()
    whole = module, fit(module, data, callbacks=callbacks_of(), **options)
    for path in Path("saved").iterdir():
        path.unlink()

    module, data = build()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException) as raised:
        fit(module, data, callbacks=callbacks_of(Terminated(*terminated), save_last=save_last), **options)
    assert raised.value.code in (None, 0)
    assert signal.getsignal(signal.SIGTERM) is before
    assert torch.load("saved/last.ckpt", weights_only=True)["global_step"] == step

    module, data = build(99)
    trainer = make_trainer(callbacks=callbacks_of(save_last=save_last), **options)
    trainer.fit(module, data, ckpt_path="last")
    assert_same_end((module, trainer), whole)
    for index in (0, 1):
        found, expected = (t.callbacks[index].state_dict() for t in (trainer, whole[1]))  # type: ignore[attr-defined]  # set outside its __init__
        assert found.get("best_k_models") == expected.get("best_k_models")
        assert found.get("wait_count") == expected.get("wait_count")
    assert sorted(path.name for path in Path("saved").glob("last*")) == ["last.ckpt"]


def test_a_handler_of_the_users_is_called_as_well() -> None:
    heard: list[int] = []
    original = signal.signal(signal.SIGTERM, lambda *received: heard.append(received[0]))
    try:
        module, data = build()
        with pytest.raises(SIGTERMException):
            fit(module, data, callbacks=callbacks_of(Terminated(3)))
    finally:
        signal.signal(signal.SIGTERM, original)
    assert heard == [signal.SIGTERM]


def test_without_checkpoints_none_is_written() -> None:
    module, data = build()
    terminated = Terminated(3)
    with pytest.raises(SIGTERMException):
        fit(module, data, callbacks=[terminated])
    assert not list(Path().rglob("*.ckpt"))
    assert terminated.validated == 0  # it did not go on to the end of the epoch


def test_the_module_trains_again_afterwards() -> None:
    module, data = build()
    with pytest.raises(SIGTERMException):
        fit(module, data, callbacks=callbacks_of(Terminated(3)))
    trainer = fit(module, data, callbacks=[])
    assert trainer.global_step == 8
    assert isinstance(trainer.lightning_module, MultiTaskModule)
