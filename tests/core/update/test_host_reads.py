"""No update that nobody records reads a tensor on the host, but where it is declared here."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import UncertaintyWeighting
from mtl_lightning.balancing.rows import GradientBalancer
from mtl_lightning.core import host_number
from mtl_lightning.core.network.fast_paths import VARIABLE
from mtl_lightning.core.update import HostCounts, Window
from mtl_lightning.tasks import MulticlassClassification, Regression
from mtl_lightning.types import Batch, TargetSpec
from tests.contracts.balancer_cases import CASES, Case
from tests.core.update.host_reads import METHODS, host_reads
from tests.helpers import fit, make_batches, make_module, make_tasks, weights_of, with_gaps


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the fast paths that this is about, in a suite without them, too."""
    monkeypatch.delenv(VARIABLE, raising=False)


class Read(MultiTaskModule):
    """Notes what is read in updates, from the third on: the first are looked at more closely."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.reads: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx < 2:
            return super().training_step(batch, batch_idx)
        with host_reads(self.reads):
            return super().training_step(batch, batch_idx)


def reads(data: Any, trainer: dict[str, Any] | None = None, **options: Any) -> set[str]:
    """The places at which updates read, the last of the epoch apart, which is recorded."""
    module = make_module(Read, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, data, log_every_n_steps=0, limit_train_batches=100, **{**(trainer or {}), "max_steps": 5})
    assert isinstance(module, Read)
    return {*module.reads}


def endless(batches: list[Batch]) -> list[Batch]:
    return batches * 10


DATA = endless(with_gaps(make_batches(4, rows=12), share=0.2))
OURS = {case.name: case for case in CASES if case.ours}
BRIEF = ("UncertaintyWeighting", "FAMO", "AutoLambda", "PCGrad", "MGDA", "IMTLG", "GradDrop")


@pytest.mark.parametrize("choice", ["raise", "skip", "ignore"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in BRIEF else pytest.mark.slow) for n in OURS], ids=lambda name: name
)
def test_an_update_reads_only_what_the_balancer_declares(name: str, choice: str) -> None:
    case = OURS[name]
    balancer = case.make(3)
    found = reads(DATA, balancer=partial(_made, case), on_nonfinite=choice)
    if isinstance(balancer, GradientBalancer) and balancer.solves_on_host:
        assert found
    else:
        assert not found


LOOK = {"nonfinite.py: look"}
"""Looks at the norm where a step, or what follows it, cannot be taken back by the device."""
SHOW = {"base.py: may_show"}
"""Looks at rows before a method sees them."""


@pytest.mark.parametrize("choice", ["raise", "skip"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in BRIEF else pytest.mark.slow) for n in OURS], ids=lambda name: name
)
def test_nothing_else_is_waited_for_on_a_gpu(name: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_number, "ALWAYS_WAITS", True)
    case = OURS[name]
    balancer = case.make(3)
    rows = isinstance(balancer, GradientBalancer)
    allowed: set[str] = set()
    if not balancer.changes_tensors_only():
        allowed = allowed | LOOK
    if rows and not (balancer.gramian and balancer.changes_tensors_only()):
        allowed = allowed | SHOW
    found = reads(DATA, balancer=partial(_made, case), on_nonfinite=choice)
    if isinstance(balancer, GradientBalancer) and balancer.solves_on_host:
        assert found > allowed
    else:
        assert found == allowed


def _made(case: Case, tasks: int) -> Any:
    return case.make(tasks, seed=3)


@pytest.mark.parametrize("make", [SGD, partial(SGD, momentum=0.9, fused=False), partial(AdamW, amsgrad=True)])
def test_no_optimizer_of_pytorch_is_looked_at(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_number, "ALWAYS_WAITS", True)
    optimizers = {"default": partial(make, lr=0.01)}
    assert reads(DATA, balancer=UncertaintyWeighting, optimizers=optimizers) == set()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_missing_tasks_weights_and_windows_are_counted_before_as_well(accumulate: int) -> None:
    batches = with_gaps(make_batches(4, rows=12), share=0.2)
    for batch in batches:
        batch["weights"] = {"kind": torch.rand(12)}
    batches[1] = {**batches[1], "targets": {"kind": batches[1]["targets"]["kind"]}}
    trainer = {"accumulate_grad_batches": accumulate}
    assert reads(endless(batches), trainer, balancer=UncertaintyWeighting) == set()


class Planted(UncertaintyWeighting):
    """Reads a loss."""

    how = "tolist"

    def objective(self, losses: Tensor, present: Tensor) -> Tensor:
        getattr(losses.detach().sum(), self.how)()
        return super().objective(losses, present)


@pytest.mark.parametrize("how", METHODS)
def test_a_planted_read_is_found(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planted, "how", how)
    assert reads(DATA, balancer=Planted) == {"differentiate.py: _by_objective"}


# --------------------------------------------------------------------------------------- counts before and after a move
class Changing(LightningDataModule):
    """Data with hooks of the user's own, each of which takes the labels of `kind` away."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.batches = make_batches(12, rows=12)
        setattr(self, hook, self.changed)

    def changed(self, batch: Batch, *args: Any) -> Batch:
        kind = torch.full_like(batch["targets"]["kind"], -100)
        return {**batch, "targets": {**batch["targets"], "kind": kind}}

    def train_dataloader(self) -> Any:
        return DataLoader(cast("Any", self.batches), batch_size=None)


class Noting(MultiTaskModule):
    """Notes what updates count, and whether that was known before the batch was moved."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.noted: list[dict[str, float]] = []

    def _update(self, window: Window) -> Tensor | None:
        self.noted.append(dict(window.counts))
        return super()._update(window)


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"])
def test_labels_are_counted_as_the_users_hooks_leave_them(hook: str) -> None:
    module = make_module(Noting, allow_unlabelled=["kind"])
    fit(module, Changing(hook))
    assert isinstance(module, Noting)
    assert module.noted == [{"number": 12, "vector": 36, "kind": 0}] * 12


class Emptying(Callback):
    """Takes labels away in place, once the batch is on the device."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        batch["targets"]["number"][:5] = torch.nan


def test_labels_that_a_callback_takes_away_are_not_counted() -> None:
    module = make_module(Noting)
    fit(module, make_batches(3, rows=12), callbacks=[Emptying()])
    assert isinstance(module, Noting)
    assert module.noted == [{"number": 7, "vector": 36, "kind": 12}] * 3


class Replacing(Callback):
    """Puts a list in the place of a target, which is converted later."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        batch["targets"]["number"] = batch["targets"]["number"].tolist()


def test_targets_that_a_callback_replaces_are_counted_as_they_then_are() -> None:
    module = make_module(Noting)
    fit(module, make_batches(3, rows=12), callbacks=[Replacing()])
    assert isinstance(module, Noting)
    assert module.noted == [{"number": 12, "vector": 36, "kind": 12}] * 3


def test_a_datamodule_with_the_hook_of_before_a_move_is_counted_before_it() -> None:
    module = make_module(Read, allow_unlabelled=["kind"])
    fit(module, Changing("on_before_batch_transfer"), log_every_n_steps=0, max_steps=5)
    assert isinstance(module, Read)
    assert not module.reads


@pytest.mark.parametrize("changed", ["nothing", "nan", "inf", "missing class", "wrong class", "no rows", "huge"])
def test_one_look_counts_as_the_closer_one_or_leaves_it_to_that(changed: str) -> None:
    tasks = {**make_tasks(), "other": MulticlassClassification(TargetSpec(classes=4)), "more": Regression()}
    batch = make_batches(1, rows=12)[0]
    batch["targets"] |= {"other": torch.arange(12) % 4, "more": torch.randn(12)}
    if changed == "no rows":
        batch["targets"] = {name: target[:0] for name, target in batch["targets"].items()}
    elif changed in ("nan", "inf", "huge"):
        batch["targets"]["more"][3] = {"nan": torch.nan, "inf": torch.inf, "huge": 3e38}[changed]
        batch["targets"]["more"][4] = 3e38 if changed == "huge" else 0.0
    elif changed != "nothing":
        batch["targets"]["kind"][3] = -100 if changed == "missing class" else 4
    found = []
    for fast_paths in (True, False):
        counts = HostCounts(tasks, fast_paths)
        counts.count(batch)
        counts.follow(batch)
        taken = counts.take(batch)
        found.append(None if taken is None else taken.tolist())
    assert found[0] == found[1]
    assert (found[0] is None) == (changed in ("inf", "wrong class"))
    assert (HostCounts(tasks)._whole([batch]) is not None) == (changed == "nothing")


def test_counts_known_before_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = with_gaps(make_batches(6, rows=12))
    for batch in batches:
        batch["weights"] = {"kind": torch.rand(12), "vector": torch.rand(12)}
    found = []
    for known in (True, False):
        if not known:
            monkeypatch.setattr(Noting, "_counts_on_host", lambda _: False)
        module = make_module(Noting, balancer=UncertaintyWeighting)
        fit(module, batches, accumulate_grad_batches=2)
        assert isinstance(module, Noting)
        found.append((module.noted, weights_of(module)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())
