"""IMTL: the reference's numbers; each half is tested by itself."""

from __future__ import annotations

import pytest
import torch

from mtl_lightning.balancing.gradients.imtl import IMTL
from mtl_lightning.balancing.losses.imtl_l import IMTLL
from tests.balancing.rows import balanced_rows, everyone, random_rows, some_losses
from tests.golden import Case, cases


@pytest.mark.parametrize("case", cases("IMTL"), ids=str)
def test_golden(case: Case) -> None:
    for step in case.steps:
        balancer, present = IMTL(case.tasks).double(), everyone(case.tasks)
        assert isinstance(balancer.losses, IMTLL)
        for parameter, value in zip(balancer.losses.log_scales, step["state_before"]["loss_scale"], strict=True):
            parameter.data.fill_(value)
        losses = step["losses"].clone().requires_grad_()
        scales, *slope = torch.autograd.grad(balancer(losses), [losses, *balancer.losses.log_scales])
        rows = scales.unsqueeze(1) * balanced_rows(case, step)
        weights = balancer.task_weights(rows @ rows.T, step["losses"], present)
        torch.testing.assert_close((weights * scales) @ step["J"], step["grad_shared"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(torch.cat(slope), step["loss_scale_grad"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(scales, step["head_multiplier"], rtol=1e-9, atol=1e-9)
        assert not balancer.weight_heads


def test_learned_scales_belong_to_their_tasks() -> None:
    balancer = IMTL(3)
    owned = [id(parameter) for index in range(3) for parameter in balancer.owned()[index]]
    assert owned == [id(parameter) for parameter in balancer.parameters()]
    present = torch.tensor([True, False, True])
    balancer.objective(torch.ones(3), present).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    (absent,) = balancer.owned()[1]
    assert absent.grad is None or not absent.grad.any()


def test_gradient_is_that_of_equal_projections() -> None:
    rows = random_rows()
    found = torch.nn.functional.normalize(rows, dim=1) @ IMTL(3).gradient(rows, some_losses(), everyone())
    torch.testing.assert_close(found, found[:1].expand(3), rtol=1e-9, atol=1e-9)
