"""The short ways past Lightning's wrappers: the same weights, hooks and counters as by the long ones."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.profilers import SimpleProfiler
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.optim import Optimizer

from mtl_lightning import MultiTaskModule
from mtl_lightning.balancing import FAMO, MGDA, PCGrad, UncertaintyWeighting, UPGrad
from mtl_lightning.core import compat
from mtl_lightning.core.compat.direct import _becomes
from mtl_lightning.core.network.fast_paths import fast_paths_allowed
from mtl_lightning.core.runtime import Runtime
from tests.helpers import assert_same, fit, make_batches, make_module, weights_of, with_gaps

HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)
DATA = with_gaps(make_batches(4, rows=12), share=0.2)
fast = pytest.mark.skipif(not fast_paths_allowed(), reason="the fast paths are off")


def told(arguments: tuple[Any, ...]) -> list[Any]:
    """What a hook was told, in a form that compares."""
    values = [value.item() if isinstance(value, Tensor) and value.numel() == 1 else value for value in arguments]
    return [value if isinstance(value, float | int | None) else type(value).__name__ for value in values]


class Listener(Callback):
    """Notes some hooks, what they are told, and what gradients there are then."""

    def __init__(self, *names: str) -> None:
        self.notes: list[Any] = []
        for name in names:
            setattr(self, name, self._noting(name))

    def _noting(self, name: str) -> Any:
        def note(trainer: Trainer, module: LightningModule, *arguments: Any) -> None:
            grads = [None if p.grad is None else float(p.grad.sum()) for p in module.parameters()]
            self.notes.append((name, module._current_fx_name, told(arguments), grads))

        return note


class Listening(MultiTaskModule):
    """A user's module with hooks of its own."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.notes: list[Any] = []

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self.notes.append(("zero", type(optimizer).__name__))

    def on_before_backward(self, loss: Tensor) -> None:
        self.notes.append(("before", loss.item(), self._current_fx_name))

    def on_after_backward(self) -> None:
        self.notes.append(("after", self._current_fx_name))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.log("seen", float(len(self.notes)))
        self.notes.append(("step", type(optimizer).__name__, self._current_fx_name))
        super().on_before_optimizer_step(optimizer)


def run(
    cls: type[MultiTaskModule], fast_paths: bool, callbacks: list[Callback], **trainer: Any
) -> tuple[MultiTaskModule, Trainer]:
    module = make_module(cls, balancer=UncertaintyWeighting, fast_paths=fast_paths)
    return module, fit(module, DATA, callbacks=callbacks, **trainer)


def counters(trainer: Trainer) -> Any:
    loop = trainer.fit_loop.epoch_loop
    return trainer.global_step, loop.manual_optimization.optim_step_progress.state_dict(), loop.batch_progress


def same_weights(one: MultiTaskModule, other: MultiTaskModule) -> None:
    found, expected = weights_of(one), weights_of(other)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("names", [(), *((name,) for name in HOOKS), HOOKS], ids="+".join)
@pytest.mark.parametrize("cls", [MultiTaskModule, Listening])
def test_whoever_listens_is_called_as_by_lightning(cls: type[MultiTaskModule], names: tuple[str, ...]) -> None:
    found = [_told(cls, fast_paths, names) for fast_paths in (True, False)]
    (fast_module, fast_trainer, fast_notes, in_module), (plain_module, plain_trainer, plain_notes, in_plain) = found
    same_weights(fast_module, plain_module)
    assert (fast_notes, in_module) == (plain_notes, in_plain)
    assert sum(len(notes) for notes in fast_notes) == (len(names) + len(names[:1])) * len(DATA)
    assert counters(fast_trainer) == counters(plain_trainer)
    assert fast_trainer.callback_metrics == plain_trainer.callback_metrics


def _told(
    cls: type[MultiTaskModule], fast_paths: bool, names: tuple[str, ...]
) -> tuple[MultiTaskModule, Trainer, list[list[Any]], Any]:
    listeners = [Listener(*names), Listener(*names[:1])]
    module, trainer = run(cls, fast_paths, [*listeners], accumulate_grad_batches=1 if names else 2)
    return module, trainer, [listener.notes for listener in listeners], getattr(module, "notes", None)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_precisions_without_a_scale_may_go_the_short_way(precision: str) -> None:
    data = [{**batch, "inputs": batch["inputs"].float()} for batch in make_batches(3)]
    modules = [make_module(balancer=UncertaintyWeighting, fast_paths=fast_paths) for fast_paths in (True, False)]
    for module in modules:
        fit(module, data, precision=precision)
    same_weights(*modules)


class Counting(compat.Direct):
    """Counts what went the short way."""

    went = 0

    def backward(self, loss: Tensor) -> bool:
        found = super().backward(loss)
        Counting.went += found
        return found


@fast
@pytest.mark.parametrize(
    ("trainer", "expected"),
    [({}, 4), ({"callbacks": [Listener("on_after_backward")]}, 0), ({"profiler": SimpleProfiler()}, 0)],
    ids=["nobody", "a callback", "a profiler"],
)
def test_the_short_way_is_taken_where_nobody_looks(
    trainer: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat, "Direct", Counting)
    Counting.went = 0
    fit(make_module(), DATA, **trainer)
    assert Counting.went == expected


class OwnBackward(MultiTaskModule):
    """Goes back in a way of its own."""

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        (2 * loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped


def test_a_backward_of_the_users_own_is_called() -> None:
    modules = [run(OwnBackward, fast_paths, [])[0] for fast_paths in (True, False)]
    same_weights(*modules)
    found, expected = (weights_of(module) for module in (modules[0], run(MultiTaskModule, True, [])[0]))
    assert not any(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_profiler_measures_as_much_as_on_the_long_way() -> None:
    measured = []
    for fast_paths in (True, False):
        profiler = SimpleProfiler()
        run(MultiTaskModule, fast_paths, [], profiler=profiler)
        measured.append({name: len(times) for name, times in profiler.recorded_durations.items()})
    assert measured[0] == measured[1]
    assert measured[0]["optimizer_step"] == len(DATA)


class Hooked(Callback):
    """Has torch call it around the steps of the optimizer."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optimizer = trainer.optimizers[0]
        optimizer.register_step_pre_hook(lambda *_: self.notes.append("before"))
        optimizer.register_step_post_hook(lambda *_: self.notes.append("after"))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.notes.append("lightning")


def test_hooks_of_the_optimizer_are_called() -> None:
    for fast_paths in (True, False):
        hooked = Hooked()
        run(MultiTaskModule, fast_paths, [hooked])
        assert hooked.notes == ["before", "lightning", "after"] * len(DATA)


class Late(Callback):
    """Adds a callback in the middle of a run."""

    def __init__(self, late: Callback) -> None:
        self.late = late

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            trainer.callbacks.append(self.late)  # type: ignore[attr-defined]  # set outside its __init__


def test_a_callback_that_comes_late_is_called() -> None:
    late = Listener("on_before_backward", "on_before_optimizer_step", "on_before_zero_grad")
    run(MultiTaskModule, True, [Late(late)])
    assert [note[0] for note in late.notes] == [
        "on_before_zero_grad",
        "on_before_backward",
        "on_before_optimizer_step",
    ] * 3


def test_a_batch_on_the_device_is_handed_on_in_containers_of_its_own() -> None:
    seen: list[Any] = []

    class Changing(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            seen.append(batch)
            batch["targets"] = {}
            batch["more"] = 1

        def on_train_batch_end(self, *args: Any) -> None: ...

    batch = make_batches(1)[0]
    with pytest.raises(Exception, match="more"):
        fit(make_module(), [batch], callbacks=[Changing()])
    assert seen
    assert set(batch) == {"inputs", "targets"}
    assert len(batch["targets"]) == 3


class Asking(MultiTaskModule):
    """Notes what the runtime says of the trainer at hand."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.scalers = [*getattr(self, "scalers", []), self.runtime.scaler]


def test_what_is_known_of_one_fit_is_asked_anew_in_the_next() -> None:
    module = make_module(Asking)
    data = [{**batch, "inputs": batch["inputs"].float()} for batch in make_batches(1)]
    fit(module, data, precision="32-true")
    scaler = torch.amp.GradScaler("cpu")
    fit(module, data, precision=None, plugins=MixedPrecision("16-mixed", "cpu", scaler))
    assert isinstance(module, Asking)
    assert module.scalers == [None, scaler]


@fast
@pytest.mark.parametrize("balancer", [UPGrad, PCGrad, partial(MGDA, level="features"), FAMO])
def test_gradients_are_what_a_backward_would_leave(balancer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered: list[bool] = []
    deliver = Runtime.deliver

    def noting(self: Runtime, gradients: Any) -> bool:
        delivered.append(deliver(self, gradients))
        return delivered[-1]

    ends = []
    for way in (noting, lambda *_: False):
        monkeypatch.setattr(Runtime, "deliver", way)
        module = make_module(balancer=balancer)
        fit(module, DATA)
        ends.append(weights_of(module))
    assert delivered == [True] * (0 if balancer is FAMO else len(DATA))
    assert_same(ends[0], ends[1])


@fast
def test_hooks_of_parameters_hear_of_their_gradients() -> None:
    told = []
    for fast_paths in (True, False):
        module = make_module(balancer=UPGrad, fast_paths=fast_paths)
        own, after, *several = (cast("Any", parameter) for parameter in module.parameters())
        heard: list[str] = []
        hooks = [
            own.register_hook(lambda _, heard=heard: heard.append("own")),
            after.register_post_accumulate_grad_hook(lambda _, heard=heard: heard.append("after")),
            register_multi_grad_hook(several[:2], lambda _, heard=heard: heard.append("several"), mode="any"),
        ]
        fit(module, DATA)
        told.append(Counter(heard))
        del hooks
    assert told[0] == told[1]
    assert {*told[0]} == {"own", "after", "several"}


@fast
def test_gradients_have_the_strides_of_their_parameters() -> None:
    weight = nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last))
    assert not _becomes(weight, torch.zeros(2, 3, 2, 2))
    assert _becomes(weight, torch.zeros_like(weight))
    weight.grad = torch.zeros_like(weight)
    assert not _becomes(weight, torch.zeros_like(weight))
