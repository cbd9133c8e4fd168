"""Tasks without a label in an update: nothing of theirs moves, bit for bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import SGD, AdamW

from mtl_lightning import Edge, MultiTaskModule
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.types import Batch
from tests.helpers import fit, make_batches, make_module, weights_of, without

OPTIMIZERS = {"default": partial(AdamW, lr=0.01, weight_decay=0.1)}  # moves by momentum and by decay


def unlabelled(batch: Batch, task: str) -> Batch:
    """Keep a task's target, without a label in it."""
    target = batch["targets"][task]
    missing = torch.full_like(target, torch.nan if target.is_floating_point() else -100)
    return {**batch, "targets": {**batch["targets"], task: missing}}


def unweighted(batch: Batch, task: str) -> Batch:
    """Give all rows the weight 0 for one task."""
    ones = {name: torch.ones(len(target), dtype=torch.float64) for name, target in batch["targets"].items()}
    return {**batch, "weights": {**ones, task: torch.zeros_like(ones[task])}}


class Snapshots(Callback):
    """Keeps weights and optimizer states as they are after each batch."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Tensor]] = []
        self.updates: list[int] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.take(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.take(trainer, pl_module)

    def take(self, trainer: Trainer, module: LightningModule) -> None:
        state = trainer.optimizers[0].state
        taken = weights_of(module)
        for name, parameter in module.named_parameters():
            taken |= {f"{name}:{key}": value.clone() for key, value in state.get(parameter, {}).items()}
        self.taken.append(taken)
        self.updates.append(trainer.global_step)

    def moved(self, index: int) -> set[str]:
        """Names of the parameters that batch ``index`` moved, or whose optimizer state it moved."""
        before, after = self.taken[index], self.taken[index + 1]
        names = [name for name in after if name not in before or not torch.equal(before[name], after[name])]
        return {name.split(":")[0] for name in names}


def run(module: MultiTaskModule, batches: list[Batch]) -> Snapshots:
    snapshots = Snapshots()
    fit(module, batches, callbacks=[snapshots])
    return snapshots


def of_task(module: MultiTaskModule, *tasks: str) -> set[str]:
    """Names of everything that tasks own: their heads and log-variances."""
    mine = [f"balancer.log_vars.{index}" for index, name in enumerate(module.tasks) if name in tasks]
    return {name for name, _ in module.named_parameters() if name in mine or name.split(".")[1] in tasks}


@pytest.mark.parametrize("absence", [without, unlabelled, unweighted], ids=["no target", "no label", "no weight"])
@pytest.mark.parametrize("task", ["number", "vector", "kind"])
def test_head_optimizer_state_and_log_variance_of_an_absent_task_stay(task: str, absence: Any) -> None:
    module = make_module(balancer=UncertaintyWeighting, optimizers=OPTIMIZERS)
    batches = make_batches(5)
    snapshots = run(module, [*batches[:2], *(absence(batch, task) for batch in batches[2:4]), batches[4]])
    everything = {name for name, _ in module.named_parameters()}
    assert len(of_task(module, task)) == 3  # weight, bias and log-variance
    assert [snapshots.moved(index) for index in (0, 1, 4)] == [everything] * 3
    assert [snapshots.moved(index) for index in (2, 3)] == [everything - of_task(module, task)] * 2
    assert snapshots.updates == [0, 1, 2, 3, 4, 5]


def test_a_task_absent_from_one_micro_batch_alone_is_present() -> None:
    module = make_module(balancer=UncertaintyWeighting, optimizers=OPTIMIZERS)
    first, second = make_batches(2)
    snapshots = Snapshots()
    fit(module, [first, without(second, "kind")], callbacks=[snapshots], accumulate_grad_batches=2)
    assert of_task(module, "kind") <= snapshots.moved(1)


@pytest.mark.parametrize("stop", [True, False], ids=["stopped", "open"])
def test_an_absent_task_that_a_present_one_reads(stop: bool) -> None:
    reads = {"kind": {"number": Edge(stop)}}
    module = make_module(balancer=UncertaintyWeighting, optimizers=OPTIMIZERS, reads=reads)
    batches = make_batches(3)
    snapshots = run(module, [*batches[:2], without(batches[2], "number")])
    head = {"heads.number.map.weight", "heads.number.map.bias"}
    stay = of_task(module, "number") - (set() if stop else head)  # the log-variance stays in either case
    assert snapshots.moved(2) == {name for name, _ in module.named_parameters()} - stay


def test_an_update_in_which_nobody_has_a_label_is_none() -> None:
    module = make_module(balancer=UncertaintyWeighting, optimizers=OPTIMIZERS)
    first, second, third = make_batches(3)
    for task in module.tasks:
        second = unlabelled(second, task)
    snapshots = run(module, [first, second, third])
    assert snapshots.moved(1) == set()
    assert snapshots.updates == [0, 1, 1, 2]


def test_a_task_that_comes_late_joins_a_momentum_that_others_have() -> None:
    batches = make_batches(3)
    batches[0] = without(batches[0], "kind")
    one_group = {"tasks": ["task:number", "task:kind"]}
    module = make_module(
        balancer=UncertaintyWeighting, groups=one_group, optimizers={"default": partial(SGD, lr=0.1, momentum=0.9)}
    )
    before = weights_of(module)
    fit(module, batches)
    assert all(not torch.equal(weight, before[name]) for name, weight in weights_of(module).items() if "kind" in name)
