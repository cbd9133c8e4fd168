"""Two processes on one device, over gloo, end as one process on the CPU does with all rows."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.gpu.two_ranks import BALANCERS, ended
from tests.helpers import assert_same
from tests.programs import run


def test_two_ranks_on_one_device(device: str, tmp_path: Path) -> None:
    run("tests.gpu.two_ranks", str(tmp_path), device, world=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for balancer in BALANCERS:
        assert_same(first[balancer], second[balancer])
        assert_same(first[balancer], ended("cpu", balancer), atol=1e-8)
