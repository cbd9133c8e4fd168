"""Lesson 1 end to end: the learned sigmas are the noise levels of the data.

The slow run is the one of the README; the short one lets the log-variances go three times as far in a step.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, SharedBottom
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.data import SyntheticRegression

TRUTH = {"y1": 10.0, "y2": 1.0}


class LastTenth(Callback):
    """Averages log sigma over the last tenth of training."""

    def __init__(self) -> None:
        self.logs: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        assert isinstance(pl_module, MultiTaskModule)
        sigmas = pl_module.balancer.sigmas()
        assert sigmas is not None
        if trainer.global_step > 0.9 * trainer.estimated_stepping_batches:
            self.logs.append(sigmas.log())

    def sigmas(self) -> dict[str, float]:
        return dict(zip(TRUTH, torch.stack(self.logs).mean(0).exp().tolist(), strict=True))


def train(seed: int, epochs: int, rate: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return (sigma, training RMSE) by task; the published recipe, and a rate for the log-variances."""
    seed_everything(seed)
    data = SyntheticRegression(n=2000, batch_size=20, seed=seed)
    module = MultiTaskModule(
        tasks=data.tasks,
        input_spec=data.input_spec,
        architecture=partial(SharedBottom, encoder=partial(MLP, hidden=[1024])),
        balancer=UncertaintyWeighting,
        optimizers={"default": partial(Adam, lr=1e-3), "balancer": partial(Adam, lr=rate)},
        schedulers={group: partial(CosineAnnealingLR, T_max=epochs) for group in ("shared", *TRUTH)},
    )
    last = LastTenth()
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[last],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        accelerator="cpu",
    )
    trainer.fit(module, data)
    squares: dict[str, list[torch.Tensor]] = {task: [] for task in TRUTH}
    with torch.no_grad():
        for batch in data.train_dataloader():
            for task, output in module(batch["inputs"]).items():
                squares[task].append((output.squeeze(1) - batch["targets"][task]).square())
    return last.sigmas(), {task: float(torch.cat(parts).mean().sqrt()) for task, parts in squares.items()}


def test_sigma_is_the_training_error_and_the_noise_level() -> None:
    sigmas, rmse = train(seed=0, epochs=20, rate=3e-2)
    for task, truth in TRUTH.items():
        assert sigmas[task] == pytest.approx(rmse[task], rel=0.03)
        assert sigmas[task] == pytest.approx(truth, rel=0.06)


@pytest.mark.slow
def test_sigma_recovery_over_five_seeds() -> None:
    runs = [train(seed, epochs=50, rate=1e-2) for seed in range(5)]
    for task, truth in TRUTH.items():
        for sigmas, rmse in runs:
            assert sigmas[task] == pytest.approx(rmse[task], rel=0.03)
            assert sigmas[task] == pytest.approx(truth, rel=0.06)
        assert sum(sigmas[task] for sigmas, _ in runs) / len(runs) == pytest.approx(truth, rel=0.03)
