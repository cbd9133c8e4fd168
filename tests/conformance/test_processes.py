"""Options of the trainer on two processes: the weights of one process."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from tests.conformance.processes import ABSENT, DDP, REFUSED, SHARDED, WINDOW, compared, options_of, with_absences
from tests.conformance.signature import batches, train
from tests.helpers import assert_same, make_module
from tests.programs import run


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    """What each of two processes ends with, for every case; one launch."""
    folder = tmp_path_factory.mktemp("two")
    run("tests.conformance.processes", str(folder), world=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", DDP, ids="-".join)
def test_ddp(case: tuple[str, str], two_processes: list[dict[Any, Any]]) -> None:
    first, second = (ended[case] for ended in two_processes)
    name, balancer = case
    assert_same(first, second)
    assert_same(first, train((balancer, "SGD", "64-true"), batches(), **options_of(name)), atol=1e-10)


@pytest.mark.parametrize("balancer", ABSENT)
def test_tasks_without_a_label_on_one_process_or_on_all(balancer: str, two_processes: list[dict[Any, Any]]) -> None:
    first, second = (ended["absent", balancer] for ended in two_processes)
    assert_same(first, second)
    assert_same(first, train((balancer, "Adam", "64-true"), with_absences()), atol=1e-10)


@pytest.mark.parametrize("name", SHARDED)
def test_fsdp2(name: str, two_processes: list[dict[Any, Any]]) -> None:
    first, second = (ended[name] for ended in two_processes)
    assert_same(first, second)
    assert_same(first, train(("sum", "SGD", "32-true"), batches(), **options_of(name)), atol=1e-5)


def test_annealing_counts_updates(two_processes: list[dict[Any, Any]]) -> None:
    for ended in two_processes:
        assert ended["annealed"] == math.ceil(len(batches()) / WINDOW)


def test_losses_are_compared_with_what_one_process_compares_with(two_processes: list[dict[Any, Any]]) -> None:
    first, second = (ended["compared"] for ended in two_processes)
    assert_same(first, second)
    assert_same(first, compared(), atol=1e-12)


def test_sync_batchnorm_converts_the_network(two_processes: list[dict[Any, Any]]) -> None:
    """Equality is not tested: the converted layers refuse the CPU, which says that they were converted."""
    for ended in two_processes:
        assert ended["synchronised"] == "SyncBatchNorm layers only work with GPU modules"


def test_sync_batchnorm_keeps_roles_and_groups() -> None:
    module = make_module(architecture=nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh()))
    before = {name: list(map(id, named.values())) for name, named in module.groups.items()}
    TorchSyncBatchNorm().apply(module)
    assert any(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
    module.configure_optimizers()
    assert {name: list(map(id, named.values())) for name, named in module.groups.items()} == before


@pytest.mark.parametrize(("balancer", "window"), REFUSED)
def test_a_static_graph_is_refused_where_ddp_does_not_sum(
    balancer: str, window: int, two_processes: list[dict[Any, Any]]
) -> None:
    for ended in two_processes:
        assert "Leave `static_graph` out." in ended["refused", balancer, window]
