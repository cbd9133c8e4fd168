"""The composite optimizer and the composite scheduler by themselves, without a trainer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adafactor, Adam, AdamW, Optimizer, SparseAdam
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, ReduceLROnPlateau, StepLR

from mtl_lightning.core import Schedule
from mtl_lightning.core.optim.composite import CompositeOptimizer, needs_closure
from mtl_lightning.core.optim.schedules import CompositeScheduler
from mtl_lightning.errors import CheckpointError
from mtl_lightning.types import ConfigurationError


def parameters(*sizes: int) -> list[nn.Parameter]:
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(size)) for size in sizes]


def make(trunk: list[nn.Parameter], head: list[nn.Parameter]) -> CompositeOptimizer:
    return CompositeOptimizer({"trunk": Adam(trunk, lr=0.1), "head": make_head(head)})


def make_head(head: list[nn.Parameter]) -> Optimizer:
    """SGD with a rate of its own for all but the first parameter."""
    split: list[dict[str, Any]] = [{"params": head[:1]}, {"params": head[1:], "lr": 0.5}]
    return SGD(split, lr=0.2, momentum=0.9)


def set_gradients(*groups: list[nn.Parameter]) -> None:
    for group in groups:
        for parameter in group:
            parameter.grad = parameter.detach() * 2


# ------------------------------------------------------------------------------------------------------- the composite
def test_one_step_is_a_step_of_each_optimizer() -> None:
    trunk, head = parameters(3, 2), parameters(4, 5)
    alone, alone_head = parameters(3, 2), parameters(4, 5)
    composite = make(trunk, head)
    optimizers: list[Optimizer] = [Adam(alone, lr=0.1), make_head(alone_head)]
    for _ in range(5):
        set_gradients(trunk, head, alone, alone_head)
        composite.step()
        for optimizer in optimizers:
            optimizer.step()
    for found, expected in zip([*trunk, *head], [*alone, *alone_head], strict=True):
        assert torch.equal(found, expected)


def test_parameter_groups_are_named_and_shared() -> None:
    composite = make(parameters(3), parameters(4, 5))
    assert [group["name"] for group in composite.param_groups] == ["trunk", "head/0", "head/1"]
    composite.param_groups[2]["lr"] = 7.0
    assert composite.optimizers["head"].param_groups[1]["lr"] == 7.0
    composite.optimizers["trunk"].param_groups[0]["lr"] = 8.0
    assert composite.param_groups[0]["lr"] == 8.0


def test_zero_grad_clears_all_groups() -> None:
    trunk, head = parameters(3), parameters(4, 5)
    composite = make(trunk, head)
    set_gradients(trunk, head)
    composite.zero_grad()
    assert [p.grad for p in [*trunk, *head]] == [None, None, None]


def test_the_closure_is_called_once_before_any_step() -> None:
    trunk, head = parameters(3), parameters(4, 5)
    composite = make(trunk, head)
    before = [p.detach().clone() for p in [*trunk, *head]]
    seen: list[list[Tensor]] = []

    def closure() -> float:
        seen.append([p.detach().clone() for p in [*trunk, *head]])
        set_gradients(trunk, head)
        return 3.0

    assert composite.step(closure) == 3.0
    assert len(seen) == 1
    assert all(torch.equal(a, b) for a, b in zip(seen[0], before, strict=True))
    assert not torch.equal(trunk[0], before[0])


def test_a_state_dict_is_flat_and_continues_the_same_run() -> None:
    runs = [(parameters(3), parameters(4, 5)) for _ in range(2)]
    (trunk, head), (other_trunk, other_head) = runs
    first, second = make(trunk, head), make(other_trunk, other_head)
    for _ in range(3):
        set_gradients(trunk, head)
        first.step()
    first.param_groups[0]["lr"] = 0.03
    for old, new in zip([*trunk, *head], [*other_trunk, *other_head], strict=True):
        new.data.copy_(old.data)
    saved = first.state_dict()
    assert sorted(saved) == ["param_groups", "state"]
    assert sorted(saved["state"]) == [0, 1, 2]
    second.load_state_dict(copy.deepcopy(saved))
    assert second.optimizers["trunk"].param_groups[0]["lr"] == 0.03
    for _ in range(3):
        set_gradients(trunk, head, other_trunk, other_head)
        first.step()
        second.step()
    for old, new in zip([*trunk, *head], [*other_trunk, *other_head], strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        pytest.param({"trunk": (3,), "top": (4,)}, r"the checkpoint \{'trunk': 1, 'head': 2\}", id="another name"),
        pytest.param(
            {"trunk": (3,), "head": (4, 5, 6)}, r"the module has \{'trunk': 1, 'head': 3\}", id="another size"
        ),
        pytest.param({"head": (4, 5), "trunk": (3,)}, r"the module has \{'head': 2, 'trunk': 1\}", id="another order"),
        pytest.param({"trunk": (3,)}, r"the module has \{'trunk': 1\}", id="one less"),
    ],
)
def test_other_groups_are_refused(other: Mapping[str, tuple[int, ...]], found: str) -> None:
    saved = CompositeOptimizer({"trunk": Adam(parameters(3)), "head": SGD(parameters(4, 5))}).state_dict()
    changed = CompositeOptimizer({name: SGD(parameters(*sizes)) for name, sizes in other.items()})
    with pytest.raises(ConfigurationError, match=rf"The optimizer groups changed between save and load: .*{found}"):
        changed.load_state_dict(saved)


def test_the_state_of_another_plain_optimizer_is_refused() -> None:
    composite = CompositeOptimizer({"trunk": Adam(parameters(3))})
    with pytest.raises(ConfigurationError, match=r"the checkpoint \{'None': 1\}"):
        composite.load_state_dict(Adam(parameters(3)).state_dict())


def test_groups_cannot_be_added_later() -> None:
    composite = make(parameters(3), parameters(4, 5))
    with pytest.raises(ConfigurationError, match="add it to `groups`"):
        composite.add_param_group({"params": parameters(2)})


def test_a_parameter_cannot_be_in_two_optimizers() -> None:
    trunk = parameters(3)
    with pytest.raises(ValueError, match="more than one parameter group"):
        CompositeOptimizer({"a": Adam(trunk), "b": Adam(trunk)})


@pytest.mark.parametrize(("make_one", "needs"), [(SGD, False), (Adam, False), (LBFGS, True)])
def test_optimizers_that_need_a_closure(make_one: Any, needs: bool) -> None:
    assert needs_closure(make_one(parameters(3))) == needs


# ------------------------------------------------------------------------------------------------------------ schedules
def scheduled(schedule: Any, name: str = "trunk") -> tuple[CompositeOptimizer, CompositeScheduler]:
    optimizer = CompositeOptimizer({"trunk": SGD(parameters(3), lr=1.0), "head": SGD(parameters(4), lr=1.0)})
    return optimizer, CompositeScheduler(optimizer, {name: schedule})


def rates(schedule: Any, interval: str, steps: int, metrics: Mapping[str, Any] | None = None) -> list[float]:
    """The trunk's rate at each of the first steps."""
    optimizer, scheduler = scheduled(schedule)
    found = []
    for index in range(1, steps + 1):
        found.append(optimizer.optimizers["trunk"].param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(interval, index, metrics or {})
    assert optimizer.optimizers["head"].param_groups[0]["lr"] == 1.0
    return found


@pytest.mark.parametrize(
    ("schedule", "interval", "expected"),
    [
        pytest.param(partial(StepLR, step_size=2), "epoch", [1, 1, 0.1, 0.1, 0.01], id="by epoch by default"),
        pytest.param(partial(StepLR, step_size=2), "step", [1] * 5, id="not by step"),
        pytest.param(
            Schedule(partial(ExponentialLR, gamma=0.5), interval="step"),
            "step",
            [1, 0.5, 0.25, 0.125, 0.0625],
            id="by step",
        ),
        pytest.param(
            Schedule(partial(ExponentialLR, gamma=0.5), interval="step", frequency=2),
            "step",
            [1, 1, 0.5, 0.5, 0.25],
            id="every second step",
        ),
        pytest.param(
            Schedule(partial(StepLR, step_size=1), interval="step", warmup=3),
            "step",
            [0.01, 0.34, 0.67, 1.0, 0.1],
            id="warm-up",
        ),
    ],
)
def test_rates_over_time(schedule: Any, interval: str, expected: list[float]) -> None:
    assert rates(schedule, interval, 5) == pytest.approx(expected)


def test_default_schedules_every_group() -> None:
    optimizer, scheduler = scheduled(partial(StepLR, step_size=1), name="default")
    optimizer.step()
    scheduler.step("epoch", 1, {})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]


def test_a_plateau_by_step_reads_its_metric() -> None:
    schedule = Schedule(partial(ReduceLROnPlateau, patience=0, factor=0.5), interval="step", monitor="train/loss")
    assert rates(schedule, "step", 4, {"train/loss": torch.tensor(1.0)}) == [1, 1, 0.5, 0.25]
    with pytest.raises(
        ConfigurationError, match=r"`schedulers\.trunk` monitors 'train/loss', .* Found \['train/lass'\]"
    ):
        rates(schedule, "step", 1, {"train/lass": 1.0})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        pytest.param(ReduceLROnPlateau, r"`schedulers\.trunk`: ReduceLROnPlateau needs a `monitor`", id="no monitor"),
        pytest.param(
            Schedule(ReduceLROnPlateau, monitor="val/loss", warmup=3),
            "warm-up cannot precede ReduceLROnPlateau",
            id="warm-up",
        ),
        pytest.param(
            Schedule(partial(StepLR, step_size=1), interval="week"),  # type: ignore[arg-type]  # the point of the test
            r"expected interval 'step' or 'epoch', found 'week'",
            id="interval",
        ),
    ],
)
def test_schedules_that_cannot_be_right(schedule: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        scheduled(schedule)


def test_a_schedule_of_no_group() -> None:
    names = r"\['trunk', 'head', 'balancer', 'default'\]"
    message = rf"`schedulers`: expected one of {names}, found 'trnuk'\. Did you mean 'trunk'\?"
    with pytest.raises(ConfigurationError, match=message):
        scheduled(partial(StepLR, step_size=1), name="trnuk")


def test_the_schedulers_states_are_saved_by_group() -> None:
    schedule = Schedule(partial(CosineAnnealingLR, T_max=10), interval="step", warmup=2)
    (first, one), (second, two) = scheduled(schedule), scheduled(schedule)
    for index in range(5):
        first.step()
        one.step("step", index, {})
    two.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict())
    for index in range(5):
        for optimizer, scheduler in ((first, one), (second, two)):
            optimizer.step()
            scheduler.step("step", index, {})
        assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]


def test_other_scheduled_groups_are_refused() -> None:
    saved = scheduled(partial(StepLR, step_size=1), name="trunk")[1].state_dict()
    other = scheduled(partial(StepLR, step_size=1), name="head")[1]
    with pytest.raises(ConfigurationError, match=r"the module schedules \['head'\], the checkpoint \['trunk'\]"):
        other.load_state_dict(saved)


# ------------------------------------------------------------------------------------------------------- merged steps
def fused(sizes: Mapping[str, list[int]], rates: Mapping[str, float]) -> tuple[CompositeOptimizer, list[nn.Parameter]]:
    groups = {name: parameters(*numbers) for name, numbers in sizes.items()}
    made: dict[str, Optimizer] = {name: Adam(g, lr=rates[name], fused=True) for name, g in groups.items()}
    made["other"] = SGD(parameters(3), lr=0.1)
    return CompositeOptimizer(made), [
        p for optimizer in made.values() for g in optimizer.param_groups for p in g["params"]
    ]


def test_fused_optimizers_step_together_as_each_by_itself() -> None:
    sizes, rates = {"a": [5, 7], "b": [3], "c": [130]}, {"a": 0.1, "b": 0.02, "c": 0.1}
    (merged, ours), (apart, theirs) = fused(sizes, rates), fused(sizes, rates)
    calls = []
    merged.optimizers["b"].register_step_post_hook(lambda *_: calls.append("b"))
    for step in range(4):
        set_gradients(ours, theirs)
        if step == 2:  # an absent group moves in neither way
            ours[2].grad = theirs[2].grad = None
        merged.step()
        for optimizer in apart.optimizers.values():
            optimizer.step()
    assert calls == ["b"] * 4
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    states = [composite.state_dict()["state"] for composite in (merged, apart)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert [group["name"] for group in merged.param_groups] == ["a", "b", "c", "other"]


def test_fused_optimizers_step_in_one_call() -> None:
    composite, every = fused({"a": [5, 7], "b": [3], "c": [4]}, {"a": 0.1, "b": 0.1, "c": 0.1})
    calls: list[str] = []

    def counting(name: str, step: Any) -> Any:
        def counted() -> None:
            calls.append(name)
            step()

        return counted

    for name in "abc":
        optimizer: Any = composite.optimizers[name]
        optimizer.step = counting(name, optimizer.step)  # as a scheduler does
    for _ in range(3):
        set_gradients(every)
        composite.step()
    assert calls == ["a", "b", "c", "a", "a"]  # each by itself at first, so that schedulers see their optimizer step


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", "text"), ("lr", True), ("betas", [0.9]), ("betas", "ab"), ("amsgrad", 3.0), ("eps", {})],
)
def test_an_option_of_another_type_is_refused(option: str, value: Any) -> None:
    composite = make(parameters(3), parameters(4, 5))
    state = composite.state_dict()
    state["param_groups"][0][option] = value
    with pytest.raises(CheckpointError, match=f"group 'trunk' an option '{option}' such as"):
        composite.load_state_dict(state)


def test_an_option_that_the_optimizer_needs_is_missed() -> None:
    composite = make(parameters(3), parameters(4, 5))
    state = composite.state_dict()
    composite.param_groups[0]["initial_lr"] = 0.1  # of a scheduler that is new
    composite.load_state_dict(state)
    del state["param_groups"][0]["betas"]
    with pytest.raises(CheckpointError, match=r"group 'trunk' an option 'betas' such as \(0\.9, 0\.999\), found none"):
        composite.load_state_dict(state)


def test_a_state_that_does_not_fit_its_parameter_is_refused() -> None:
    trunk, head = parameters(3, 2), parameters(4, 5)
    composite = make(trunk, head)
    set_gradients(trunk, head)
    composite.step()
    state = composite.state_dict()
    composite.load_state_dict(state)
    whole = copy.deepcopy(state["state"][1])
    for name, value, found in (
        ("exp_avg", "text", "'text'"),
        ("exp_avg_sq", torch.zeros(3), r"a tensor \(3,\)"),  # a fused step would read beyond its end
        ("step", 7, "7"),
        ("step", None, "None"),
    ):
        state["state"][1] = {**whole, name: value}
        with pytest.raises(CheckpointError, match=rf"group 'trunk' .* as '{name}', found {found} for .* shape \(2,\)"):
            composite.load_state_dict(state)
    del state["state"][1]["step"]
    with pytest.raises(CheckpointError, match=r"as 'step', found None"):
        composite.load_state_dict(state)


def test_an_entry_that_the_only_state_lacks_is_missed() -> None:
    (only,) = parameters(3)
    composite = CompositeOptimizer({"trunk": Adam([only], amsgrad=True)})
    set_gradients([only])
    composite.step()
    state = composite.state_dict()
    del state["state"][0]["max_exp_avg_sq"]
    with pytest.raises(CheckpointError, match=r"group 'trunk' a state .* as 'max_exp_avg_sq', found None"):
        composite.load_state_dict(state)


ALL = [kind for name in torch.optim.__all__ if inspect.isclass(kind := getattr(torch.optim, name, None))]


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in (Optimizer, LBFGS, SparseAdam)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_every_optimizer_of_pytorch_takes_its_own_states(kind: Any, momentum: float) -> None:
    options = {"momentum": momentum} if "momentum" in inspect.signature(kind).parameters else {}

    def make() -> tuple[CompositeOptimizer, list[nn.Parameter]]:
        made = [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(2, 1))]
        return CompositeOptimizer({"trunk": kind(made, lr=0.1, **options)}), made

    composite, every = make()
    set_gradients(every)
    composite.step()
    other, others = make()
    other.load_state_dict(composite.state_dict())
    for name, value in composite.state[every[1]].items():
        torch.testing.assert_close(other.state[others[1]][name], value)


def test_parameters_may_have_states_of_their_own_kinds() -> None:
    """Adafactor keeps rows and columns of a matrix, and the whole of a vector."""

    def make() -> tuple[CompositeOptimizer, list[nn.Parameter]]:
        both = [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3))]
        return CompositeOptimizer({"trunk": Adafactor(both)}), both

    composite, both = make()
    set_gradients(both)
    composite.step()
    other, others = make()
    other.load_state_dict(composite.state_dict())
    assert {*other.state[others[0]]} != {*other.state[others[1]]}
    for name, value in composite.state[both[0]].items():
        torch.testing.assert_close(other.state[others[0]][name], value)


# ---------------------------------------------------------------------------------------------- Adams without methods
ADAMS: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (Adam, {}),
    (Adam, {"amsgrad": True, "weight_decay": 0.1}),
    (AdamW, {"betas": (0.8, 0.9), "eps": 1e-3}),
    (AdamW, {"maximize": True, "amsgrad": True}),
]


@pytest.mark.parametrize(("kind", "options"), ADAMS)
def test_the_kernel_alone_gives_each_bit_of_the_methods(kind: Any, options: dict[str, Any]) -> None:
    found = []
    for fast_paths in (True, False):
        torch.manual_seed(0)
        groups = {name: parameters(*sizes) for name, sizes in {"a": [5, 130], "b": [3], "c": [4]}.items()}
        made = {n: kind(g, lr=0.1 if n == "a" else 0.02, fused=True, **options) for n, g in groups.items()}
        composite, every = CompositeOptimizer(made), [p for group in groups.values() for p in group]
        composite.fast_paths = fast_paths
        for step in range(8):
            for parameter in every:
                parameter.grad = torch.randn_like(parameter)
            if step in (0, 5):  # one has no state yet at the second step, another one stays behind
                every[-1 if step == 0 else 1].grad = None
            if step in (3, 4):
                made["b"].param_groups[0]["lr"] = 0.5 / step
            if step == 6:
                composite.load_state_dict(copy.deepcopy(composite.state_dict()))
            composite.step()
        found.append((every, composite.state_dict()["state"]))
    assert all(torch.equal(mine, other) for mine, other in zip(found[0][0], found[1][0], strict=True))
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


def test_the_steps_of_an_optimizer_are_counted_by_one_addition() -> None:
    composite, every = fused({"a": [5, 7], "b": [3]}, {"a": 0.1, "b": 0.1})
    for rate in (0.1, 0.1, 0.2, 0.3):
        for name in "ab":
            composite.optimizers[name].param_groups[0]["lr"] = rate
        set_gradients(every)
        composite.step()
    steps = [composite.state[parameter]["step"] for parameter in every[:3]]
    assert [step.item() for step in steps] == [4, 4, 4]
    assert {step.untyped_storage().data_ptr() for step in steps} == {steps[0].untyped_storage().data_ptr()}
    every[0].grad = None
    composite.step()
    assert [step.item() for step in steps] == [4, 5, 5]


def test_the_kernel_alone_leaves_all_as_it_is_where_an_inf_was_found() -> None:
    composite, every = fused({"a": [5, 7], "b": [3]}, {"a": 0.1, "b": 0.2})
    for _ in range(2):
        set_gradients(every)
        composite.step()
    before = copy.deepcopy([every[:-1], [composite.state[p] for p in every[:-1]]])
    first: Any = composite.optimizers["a"]
    first.found_inf = torch.ones(())
    set_gradients(every)
    composite.step()
    torch.testing.assert_close([every[:-1], [composite.state[p] for p in every[:-1]]], before, rtol=0, atol=0)
    first.found_inf = torch.zeros(())
    composite.step()
    assert not any(torch.equal(now, then) for now, then in zip(every[:-1], before[0], strict=True))


def test_the_methods_are_called_where_the_kernel_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    stepped: list[Any] = []
    monkeypatch.setattr(Adam, "step", stepped.append)
    every: list[dict[str, Any]] = [{"fused": True}, {"foreach": True}, {"fused": True, "lr": torch.tensor(0.1)}]
    for options in every:
        made = Adam(parameters(3), **{"lr": 0.1, **options})
        composite = CompositeOptimizer({"a": made})
        for _ in range(2):  # the second one has no state, for want of a first one
            set_gradients(made.param_groups[0]["params"])
            composite.step()
        assert stepped == [made] * 2
        stepped.clear()
