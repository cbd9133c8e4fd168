"""Sums over processes: past the strategy where it is Lightning's, by the strategy where it is another one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from mtl_lightning.core import runtime as file
from mtl_lightning.core.runtime import Runtime


class Own(DDPStrategy):
    """A strategy that sums in its own way: by 3."""

    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: Any = "mean") -> Tensor:
        assert reduce_op == "sum"
        return tensor.mul_(3)


class Work:
    """An all-reduce under way, on two processes that have the same."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def wait(self) -> None:
        self.tensor.mul_(2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each all-reduce was asked to sum."""
    numbers: list[int] = []

    def all_reduce(tensor: Tensor, **options: Any) -> Any:
        assert tensor.is_contiguous()
        numbers.append(tensor.numel())
        if options.get("async_op"):
            return Work(tensor)
        return tensor.mul_(2)

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "barrier", lambda **_: numbers.append(-1))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda _: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.distributed, "group", SimpleNamespace(WORLD=None))
    monkeypatch.setattr(file, "LARGE", 4)
    return numbers


def made(strategy: DDPStrategy, fast: bool, world: int = 2) -> Runtime:
    trainer = SimpleNamespace(strategy=strategy, world_size=world)
    module = SimpleNamespace(trainer=trainer, _trainer=trainer, fast_paths=fast, device=torch.device("cpu"))
    return Runtime(module)  # type: ignore[arg-type]  # all that sums look at


def tensors() -> list[Tensor]:
    """Large ones, one of them not contiguous, and small ones of several dtypes."""
    return [torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3).T, torch.ones(2), torch.ones(3).double()]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("owned", [0, 1])
def test_many_are_summed_at_once(asked: list[int], fast: bool, owned: int) -> None:
    given = tensors()
    found = made(DDPStrategy(), fast).summed(given, owned)
    for tensor, expected in zip(found, tensors(), strict=True):
        torch.testing.assert_close(tensor, 2 * expected, rtol=0, atol=0)  # dtypes and shapes, too
    assert asked == ([6, 6, 5] if fast else [-1, 17])
    assert (found[0].data_ptr() == given[0].data_ptr()) == (fast and owned == 1)
    for tensor, expected in zip(given[owned:], tensors()[owned:], strict=True):
        assert tensor.equal(expected)


def test_only_large_ones_are_summed_as_they_lie(asked: list[int]) -> None:
    (found,) = made(DDPStrategy(), True).summed([torch.ones(4)])
    assert found.tolist() == [2.0] * 4
    assert asked == [4]


@pytest.mark.parametrize("fast", [True, False])
def test_one_is_summed_and_a_flag_is_seen_anywhere(asked: list[int], fast: bool) -> None:
    runtime, given = made(DDPStrategy(), fast), torch.ones(2)
    assert runtime.all_sum(given).tolist() == [2.0, 2.0]
    assert given.tolist() == [1.0, 1.0]
    assert runtime.anywhere(True)
    assert not runtime.anywhere(False)
    assert asked == ([2, 1, 1] if fast else [-1, 2, -1, 1, -1, 1])


def test_a_strategy_of_its_own_is_asked(asked: list[int]) -> None:
    runtime = made(Own(), True)
    assert runtime.all_sum(torch.ones(2)).tolist() == [3.0, 3.0]
    assert [tensor.tolist() for tensor in runtime.summed([torch.ones(5), torch.ones(1)])] == [[3.0] * 5, [3.0]]
    assert not asked


def test_one_process_asks_nobody(asked: list[int]) -> None:
    runtime, given = made(DDPStrategy(), True, world=1), torch.ones(5)
    assert runtime.all_sum(given) is given
    assert runtime.summed([given])[0] is given
    assert runtime.anywhere(True)
    assert not asked
