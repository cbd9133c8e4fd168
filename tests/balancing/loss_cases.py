"""What the tests of loss balancers share: the weights an objective gives, golden steps, a trip through a file."""

from __future__ import annotations

import io
from typing import Any, TypeVar

import torch
from torch import Tensor

from mtl_lightning.balancing import Balancer

Some = TypeVar("Some", bound=Balancer)
LOSSES = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)


def weights_of(balancer: Balancer, losses: Tensor, present: Tensor | None = None) -> Tensor:
    """The derivatives (T,) of the objective by the losses: what each task's gradient is multiplied by."""
    leaf = losses.detach().clone().requires_grad_()
    torch.autograd.backward(balancer(leaf, present))
    assert leaf.grad is not None
    return leaf.grad


def assert_golden(step: dict[str, Any], weights: Tensor, rtol: float = 1e-9) -> None:
    """Compare weights (T,) with a recorded step of a method that weighs losses: the trunk's gradient, the heads'."""
    torch.testing.assert_close(weights, step["head_multiplier"], rtol=rtol, atol=0.0)
    torch.testing.assert_close(weights @ step["J"], step["grad_shared"], rtol=rtol, atol=rtol)


def reloaded(balancer: Balancer, fresh: Some) -> Some:
    """Return ``fresh`` with the state of ``balancer``, after a trip through a file of plain data."""
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)
