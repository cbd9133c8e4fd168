"""Balancers with a solver treat tasks alike: permuted tasks have permuted weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mtl_lightning.balancing.gradients.aligned_mtl import AlignedMTL
from mtl_lightning.balancing.gradients.cagrad import CAGrad
from mtl_lightning.balancing.gradients.fairgrad import FairGrad
from mtl_lightning.balancing.gradients.mgda import MGDA
from mtl_lightning.balancing.gradients.nash_mtl import NashMTL
from mtl_lightning.balancing.gradients.pcgrad import project_conflicts
from mtl_lightning.balancing.gradients.upgrad import DualProj, UPGrad
from mtl_lightning.balancing.rows import GramianBalancer
from tests.balancing.rows import everyone, random_rows, some_losses

MAKERS: dict[str, Callable[[int], GramianBalancer]] = {
    "MGDA": MGDA,
    "MGDA loss+": lambda tasks: MGDA(tasks, normalization="loss+"),
    "NashMTL": NashMTL,
    "CAGrad": CAGrad,
    "UPGrad": UPGrad,
    "DualProj": DualProj,
    "FairGrad": lambda tasks: FairGrad(tasks, alpha=2.0),
    "AlignedMTL": AlignedMTL,
}


@pytest.mark.parametrize(("tasks", "size"), [(2, 6), (5, 20), (9, 4), (30, 300)])
@pytest.mark.parametrize("name", MAKERS)
def test_permuted_tasks_have_permuted_weights(name: str, tasks: int, size: int) -> None:
    rows, losses = random_rows(tasks, size=size), some_losses(tasks)
    order = torch.randperm(tasks, generator=torch.Generator().manual_seed(1))
    balancer = MAKERS[name](tasks)

    def update(which: Any) -> torch.Tensor:
        found = balancer.task_weights(rows[which] @ rows[which].T, losses[which], everyone(tasks))
        return found if size > tasks else found @ rows[which]  # weights of dependent gradients are a matter of rounding

    expected = update(slice(None))
    torch.testing.assert_close(update(order), expected[order] if size > tasks else expected, rtol=1e-6, atol=1e-6)


def test_permuted_tasks_with_permuted_orders_have_permuted_weights() -> None:
    rows, keys = random_rows(6, size=9), torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain = project_conflicts(rows @ rows.T, keys.argsort(dim=1), visit_own=True)
    other = rows[order]
    permuted = project_conflicts(other @ other.T, keys[order][:, order].argsort(dim=1), visit_own=True)
    torch.testing.assert_close(permuted, plain[order], rtol=1e-9, atol=1e-9)
