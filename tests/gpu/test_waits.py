"""Updates that nobody records never wait for the device.

On a GPU PyTorch itself says so (``torch.cuda.set_sync_debug_mode``). On the CPU reads on the host are noted
(:mod:`tests.core.update.host_reads`), and what is sized by values or copied from Python's numbers (:mod:`.waits`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import FAMO, IMTLG, AlignedMTL, GradVac, PCGrad, UncertaintyWeighting
from tests.core.update.host_reads import host_reads
from tests.gpu.training import batches, trained
from tests.gpu.waits import waits

WARM_UP = 3
"""Updates that are looked at more closely, and make what is kept."""


@contextmanager
def noted(device: str, found: list[str]) -> Iterator[None]:
    """Note what waits, or fail at it."""
    if device == "cpu":
        with host_reads(found), waits(found):
            yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Waiting(MultiTaskModule):
    """Notes what waits in updates, from the fourth on."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.found: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx < WARM_UP:
            return super().training_step(batch, batch_idx)
        with noted(self.device.type, self.found):
            return super().training_step(batch, batch_idx)


class Planted(UncertaintyWeighting):
    """Waits."""

    how = "mask"

    def objective(self, losses: Any, present: Any) -> Any:
        if self.how == "mask":
            losses.detach()[present]
        elif self.how == "numbers":
            losses.new_tensor([1.0, 2.0])
        else:
            losses.detach().sum().item()
        return super().objective(losses, present)


def run(device: str, balancer: Any) -> list[str]:
    """What waits in six updates of seven, the last of which would be recorded."""
    options = {"log_every_n_steps": 0, "max_epochs": 1, "max_steps": 6, "limit_train_batches": 100}
    module = trained(device, balancer, trainer=options, data=batches() * 3, cls=Waiting, on_nonfinite="ignore")
    assert isinstance(module, Waiting)
    return sorted({*module.found} - ({"jacobian.py: backward"} if device == "cpu" else set()))


@pytest.mark.parametrize(
    "balancer", [UncertaintyWeighting, FAMO, PCGrad, IMTLG, AlignedMTL, GradVac], ids=lambda cls: cls.__name__
)
def test_no_update_waits(balancer: Any, device: str) -> None:
    assert run(device, balancer) == []


@pytest.mark.parametrize("how", ["mask", "numbers", "item"])
def test_a_planted_wait_is_found(how: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planted, "how", how)
    if device == "cpu":
        assert "differentiate.py: _by_objective" in run(device, partial(Planted)) or run(device, Planted)
    else:
        with pytest.raises(RuntimeError, match="synchroniz"):
            run(device, Planted)
