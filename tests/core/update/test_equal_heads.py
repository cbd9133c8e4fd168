"""Training with equal heads as one product ends where training with one head after the other does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, Adam

from mtl_lightning import MultiTaskModule
from mtl_lightning.architectures import MLP, GroupedNetworks, MLPHead, MMoE, SharedBottom
from mtl_lightning.balancing import PCGrad, UncertaintyWeighting
from mtl_lightning.core.network.stacked_heads import Outputs
from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, Ordinal, Regression, Task
from mtl_lightning.types import Batch, TargetSpec, TensorSpec
from tests.core.saved import single
from tests.helpers import assert_same, fit, weights_of
from tests.programs import run

ROWS, INPUTS = 8, 4
TRUNK = partial(MLP, hidden=[8, 6], activation=nn.Tanh)
HEADS = {"default": partial(MLPHead, hidden=[5]), "k1": partial(MLPHead, hidden=[3])}
ARCHITECTURES: dict[str, Any] = {
    "SharedBottom": partial(SharedBottom, encoder=TRUNK),
    "GroupedNetworks": partial(
        GroupedNetworks,
        encoder=TRUNK,
        groups={"a": ["n0", "n2", "k0", "o0"], "b": ["n1", "k1", "k2", "k3", "o1", "b0", "b1"]},
    ),
    "MMoE": partial(MMoE, encoder=TRUNK, num_experts=2),
}


def tasks() -> dict[str, Task]:
    made: dict[str, Task] = {f"n{index}": Regression(TargetSpec()) for index in range(3)}
    made |= {f"k{index}": MulticlassClassification(TargetSpec(classes=3)) for index in range(4)}
    made |= {f"o{index}": Ordinal(TargetSpec(classes=4)) for index in range(2)}
    return made | {f"b{index}": BinaryClassification(TargetSpec(classes=2)) for index in range(2)}


def batches(number: int = 6) -> list[Batch]:
    random = torch.Generator().manual_seed(0)

    def target(name: str) -> Tensor:
        if name[0] == "n":
            return torch.randn(ROWS, generator=random, dtype=torch.float64)
        return torch.randint({"k": 3, "o": 4, "b": 2}[name[0]], (ROWS,), generator=random)

    return [
        {
            "inputs": torch.randn(ROWS, INPUTS, generator=random, dtype=torch.float64),
            "targets": {name: target(name) for name in tasks()},
        }
        for _ in range(number)
    ]


def absent() -> list[Batch]:
    """Labels missing here and there, and each task missing in some batch, by its key or by its labels."""
    random, names, made = torch.Generator().manual_seed(1), list(tasks()), batches()
    for index, batch in enumerate(made):
        for place, (name, target) in enumerate([*batch["targets"].items()]):
            missing = torch.nan if target.is_floating_point() else -100
            gone = (
                torch.ones(ROWS, dtype=torch.bool) if place % 5 == index else torch.rand(ROWS, generator=random) < 0.3
            )
            batch["targets"][name] = target.masked_fill(gone, missing)
        if index % 2:
            del batch["targets"][names[index]]
    return made


def by_dataset() -> list[Any]:
    """Each item is a batch of two datasets, with some of the tasks each."""
    items = []
    for first, second in zip(batches(), batches()[::-1], strict=True):
        one = {name: target for name, target in first["targets"].items() if name[0] in "nk"}
        two = {name: target for name, target in second["targets"].items() if name[0] in "kob"}
        items.append({"one": {**first, "targets": one}, "two": {**second, "targets": two}})
    return items


def weighted() -> list[Batch]:
    return [{**batch, "weights": torch.rand(ROWS, dtype=torch.float64) + 0.1} for batch in batches()]


CASES: dict[str, list[Any]] = {
    "complete": batches(),
    "absent": absent(),
    "by dataset": by_dataset(),
    "weighted": weighted(),
}


def make(fast: bool = True, **options: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    defaults = {"architecture": ARCHITECTURES["SharedBottom"], "heads": HEADS, "balancer": UncertaintyWeighting}
    defaults["optimizers"] = {"default": partial(SGD, lr=0.05, momentum=0.9)}
    module = MultiTaskModule(tasks(), input_spec=TensorSpec((INPUTS,)), **{**defaults, **options})
    module.fast_paths = fast
    return module


def train(
    data: list[Any], fast: bool = True, module: dict[str, Any] | None = None, **options: Any
) -> dict[str, Tensor]:
    made = make(fast, **(module or {}))
    fit(made, data, **{"max_epochs": 2, **options})
    return weights_of(made)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tasks of every stack that is made."""
    made: list[list[str]] = []
    add = Outputs.add_stack

    def noting(self: Outputs, names: Any, stack: Tensor) -> dict[str, Tensor]:
        made.append([*names])
        return add(self, names, stack)

    monkeypatch.setattr(Outputs, "add_stack", noting)
    return made


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_it_ends_where_one_head_after_the_other_does(case: str, accumulate: int, stacks: list[list[str]]) -> None:
    found = train(CASES[case], accumulate_grad_batches=accumulate)
    assert ["n0", "n1", "n2", "o0", "o1", "b0", "b1"] in stacks or case != "complete"
    assert ["k0", "k2", "k3"] in stacks
    number = len(stacks)
    plain = train(CASES[case], fast=False, accumulate_grad_batches=accumulate)
    assert len(stacks) == number
    assert_same(found, plain, atol=1e-10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_every_way_of_sharing(architecture: str, stacks: list[list[str]]) -> None:
    options = {"architecture": ARCHITECTURES[architecture], "reads": {"o1": ["n0"]}}
    found = train(CASES["absent"], module=options)
    assert bool(stacks) == (architecture != "MMoE")
    assert_same(found, train(CASES["absent"], fast=False, module=options), atol=1e-10)


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-6), ("bf16-mixed", 2e-2)])
def test_in_other_precisions(precision: Any, tolerance: float, stacks: list[list[str]]) -> None:
    data = single(CASES["absent"])
    found = train(data, precision=precision)
    assert stacks
    assert_same(found, train(data, fast=False, precision=precision), atol=tolerance)


def test_absent_tasks_stay_as_they_are() -> None:
    data = batches()
    for batch in data:
        del batch["targets"]["n1"], batch["targets"]["k0"]
    module = make(allow_unlabelled=["n1", "k0"])
    before = weights_of(module)
    fit(module, data)
    moved = {name.split(".")[1] for name, value in weights_of(module).items() if not torch.equal(value, before[name])}
    assert moved >= set(tasks()) - {"n1", "k0"}
    assert not moved & {"n1", "k0"}
    assert all(parameter.grad is None for name in ("n1", "k0") for parameter in module.heads[name].parameters())


@pytest.mark.parametrize("level", ["parameters", "features", "last_layer"])
def test_gradients_by_task_end_where_the_plain_ways_do(level: Any) -> None:
    options = {"balancer": partial(PCGrad, level=level)}
    found = train(CASES["complete"], module=options, max_epochs=1)
    assert_same(found, train(CASES["complete"], fast=False, module=options, max_epochs=1), atol=1e-10)


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path, stacks: list[list[str]]) -> None:
    options: dict[str, Any] = {"optimizers": {"default": partial(Adam, lr=0.01)}}
    whole, saver = make(**options), ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=6)
    fit(whole, CASES["absent"], max_epochs=3, callbacks=[saver])
    assert stacks
    again = make(**options)
    fit(again, CASES["absent"], max_epochs=3, ckpt_path=str(next(tmp_path.glob("*step=6.ckpt"))))
    assert_same(weights_of(again), weights_of(whole))


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    run("tests.core.update.equal_heads_on_two", str(tmp_path), world=2)
    ends = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in ("complete", "absent"):
        data = [{**batch, "targets": {**batch["targets"]}} for batch in CASES[name]]
        if name == "absent":
            for batch in data:
                batch["targets"]["b0"] = batch["targets"]["b0"].clone()
                batch["targets"]["b0"][1::2] = -100
        expected = train(data, fast=False)
        for end in ends:
            assert_same(end[name], expected, atol=1e-10)
