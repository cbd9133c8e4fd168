"""Projection to the simplex, by its definition and against torchjd."""

from __future__ import annotations

import pytest
import torch
from torchjd.aggregation._utils.simplex import project_onto_simplex

from mtl_lightning.balancing.tools.simplex import project_to_simplex, share_of
from tests.balancing.matrices import DOUBLE


@pytest.mark.parametrize("tasks", [1, 2, 5, 30])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_agrees_with_torchjd(tasks: int, scale: float) -> None:
    for seed in range(20):
        values = scale * torch.randn(tasks, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        found = project_to_simplex(values)
        torch.testing.assert_close(found, project_onto_simplex(values), rtol=1e-9, atol=1e-9)
        assert (found >= 0).all()


def test_is_the_nearest_point() -> None:
    values = torch.tensor([0.9, 0.6, -0.3], dtype=DOUBLE)
    found = project_to_simplex(values)
    torch.testing.assert_close(found, torch.tensor([0.65, 0.35, 0.0], dtype=DOUBLE))
    others = torch.distributions.Dirichlet(torch.ones(3, dtype=DOUBLE)).sample((500,))
    assert ((others - values).norm(dim=1) >= (found - values).norm() - 1e-12).all()


def test_large_numbers() -> None:
    assert project_to_simplex(torch.tensor([3e20, -1e20, 1e19])).tolist() == [1.0, 0.0, 0.0]


def test_a_point_of_the_simplex_stays() -> None:
    values = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
    torch.testing.assert_close(project_to_simplex(values), values)


def test_shares_of_some() -> None:
    share, total = share_of(torch.tensor([0.1, 0.3]))
    torch.testing.assert_close(share, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(total.item(), 0.4)
    share, total = share_of(torch.zeros(4))
    assert share.tolist() == [0.25] * 4
    assert total == 0
