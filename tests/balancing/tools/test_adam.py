from __future__ import annotations

import torch

from mtl_lightning.balancing.tools.adam import TaskAdam


def test_steps_are_those_of_torch() -> None:
    torch.manual_seed(0)
    numbers = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    reference = torch.optim.Adam([numbers], lr=0.02, betas=(0.8, 0.95))
    adam, found = TaskAdam(3, lr=0.02, betas=(0.8, 0.95)).double(), torch.ones(3, dtype=torch.float64)
    for _ in range(10):
        numbers.grad = torch.randn(3, dtype=torch.float64)
        reference.step()
        found = found + adam.step(numbers.grad, torch.ones(3, dtype=torch.bool))
        torch.testing.assert_close(found, numbers.detach(), rtol=1e-12, atol=1e-12)


def test_an_absent_task_makes_the_step_later_that_it_would_have_made() -> None:
    adam, pausing = TaskAdam(2, lr=0.1).double(), TaskAdam(2, lr=0.1).double()
    both, first = torch.tensor([True, True]), torch.tensor([True, False])
    gradients = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    steps = [adam.step(gradient, both) for gradient in gradients]
    pausing.step(gradients[0], both)
    assert pausing.step(gradients[1], first).tolist() == [steps[1][0], 0.0]
    assert pausing.step(gradients[1], torch.tensor([False, True])).tolist() == [0.0, steps[1][1]]


def test_a_gradient_of_0_is_no_step() -> None:
    assert TaskAdam(2, lr=0.1).step(torch.zeros(2), torch.ones(2, dtype=torch.bool)).tolist() == [0.0, 0.0]
