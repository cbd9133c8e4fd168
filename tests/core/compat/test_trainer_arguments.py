"""The trainer's own arguments work under manual optimization, and the trainer is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from mtl_lightning import MultiTaskModule, NonFiniteError
from tests.core.test_counting import Plain
from tests.helpers import assert_same, loader_of, make_batches, make_module, make_trainer, weights_of

BATCHES = make_batches(6)


def trainer() -> Trainer:
    return make_trainer(accumulate_grad_batches=3, gradient_clip_val=0.5, gradient_clip_algorithm="value")


def arguments(made: Trainer) -> tuple[int, Any, Any]:
    return made.accumulate_grad_batches, made.gradient_clip_val, made.gradient_clip_algorithm


def test_they_are_given_back_after_training() -> None:
    made = trainer()
    before = arguments(made)
    assert before[:2] == (3, 0.5)
    made.fit(make_module(), loader_of(BATCHES))
    assert made.global_step == 2
    assert arguments(made) == before


def test_they_are_given_back_after_an_error() -> None:
    made = trainer()
    before = arguments(made)
    lost = [{**batch, "inputs": batch["inputs"] * torch.nan} for batch in BATCHES]
    with pytest.raises(NonFiniteError):
        made.fit(make_module(), loader_of(lost))
    assert arguments(made) == before


def test_they_are_given_back_after_a_refusal() -> None:
    class Refused(MultiTaskModule):
        def setup(self, stage: str) -> None:
            raise ValueError("not today")

    made = trainer()
    before = arguments(made)
    with pytest.raises(ValueError, match="not today"):
        made.fit(make_module(Refused), loader_of(BATCHES))
    assert arguments(made) == before


def test_a_trainer_can_be_used_again() -> None:
    """After a training, after a validation, and for another module, one with automatic optimization included."""
    reference = make_module()
    trainer().fit(reference, loader_of(BATCHES))
    made = trainer()
    for module in (make_module(seed=5), Plain(), make_module()):
        made.fit_loop.epoch_progress.reset()
        made.validate(module, loader_of(BATCHES), verbose=False)
        made.fit(module, loader_of(BATCHES))
        assert arguments(made)[:2] == (3, 0.5)
    assert isinstance(module, LightningModule)
    assert_same(weights_of(module), weights_of(reference))


def test_other_stages_need_none_of_them() -> None:
    made = trainer()
    for run in (made.validate, made.test):
        run(make_module(), loader_of(BATCHES), verbose=False)
    made.predict(make_module(), loader_of(BATCHES))
    assert arguments(made)[:2] == (3, 0.5)
