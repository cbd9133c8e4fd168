"""Equal heads as one product: the numbers of one head after the other, and when they are left to that."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from mtl_lightning.architectures import Linear, MLPHead
from mtl_lightning.core.network.graph import TaskGraph, run_heads
from mtl_lightning.core.network.stacked_heads import Outputs, StackedHeads
from mtl_lightning.core.network.stacking_rule import runs_together
from mtl_lightning.tasks import BinaryClassification, MulticlassClassification, Regression, Task
from mtl_lightning.types import TargetSpec

B, D, N = 6, 5, 5
NAMES = [f"t{index}" for index in range(N)]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}


class Shifted(MLPHead):
    """A head of the user's own: its forward is more than its layers."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) + 1


class Renamed(MLPHead):
    """A subclass that changes nothing."""


def sequence(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


HEADS: dict[str, Callable[[], nn.Module]] = {
    "a number": lambda: Linear((D,), 1),
    "classes": lambda: Linear((D,), 3),
    "plain": lambda: nn.Linear(D, 2),
    "no bias": lambda: nn.Linear(D, 2, bias=False),
    "MLP": lambda: MLPHead((D,), 1, hidden=[7]),
    "deep MLP": lambda: MLPHead((D,), 3, hidden=[7, 4], activation=nn.Tanh),
    "subclass": lambda: Renamed((D,), 1),
    "sequence": sequence(lambda: nn.Linear(D, 3), nn.GELU, lambda: nn.Linear(3, 2, bias=False), nn.Sigmoid),
    "nested": sequence(lambda: MLPHead((D,), 4, hidden=[3]), lambda: nn.LeakyReLU(0.3), lambda: Linear((4,), 2)),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: MLPHead((D,), 1, dropout=0.5),
    "another forward": lambda: Shifted((D,), 1),
    "a normalisation": sequence(lambda: nn.Linear(D, 3), lambda: nn.BatchNorm1d(3)),
    "activation first": sequence(nn.ReLU, lambda: nn.Linear(D, 1)),
    "parametrised": lambda: parametrizations.weight_norm(nn.Linear(D, 1)),
    "nothing": nn.Sequential,
}


def make(head: Callable[[], nn.Module] = HEADS["MLP"], dtype: torch.dtype = torch.float64) -> nn.ModuleDict:
    return nn.ModuleDict({name: head() for name in NAMES}).to(dtype)


def tasks_of(names: list[str]) -> Mapping[str, Task]:
    return {name: Regression(TargetSpec()) for name in names}


def run(heads: nn.ModuleDict, features: Tensor, stacked: StackedHeads | None) -> dict[str, Tensor]:
    graph = TaskGraph(NAMES)
    return run_heads(graph, NAMES, dict.fromkeys(NAMES, features), heads, tasks_of(NAMES), stacked)  # type: ignore[arg-type]


def is_stacked(heads: nn.ModuleDict, stacked: StackedHeads, features: Tensor | None = None) -> bool:
    shared = torch.randn(B, D, dtype=torch.float64) if features is None else features
    return bool(stacked.run(Outputs(), NAMES, dict.fromkeys(NAMES, shared), heads))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", HEADS)
def test_outputs_and_gradients_are_those_of_one_head_after_the_other(kind: str, dtype: torch.dtype) -> None:
    heads, features = make(HEADS[kind], dtype), torch.randn(B, D, dtype=dtype, requires_grad=True)
    found: list[list[Tensor]] = []
    for stacked in (None, StackedHeads()):
        outputs = run(heads, features, stacked)
        together = isinstance(outputs, Outputs) and isinstance(outputs.together(NAMES), Tensor)
        assert together == (stacked is not None)
        assert all(output.is_contiguous() for output in outputs.values())
        total = torch.stack([(index + 1) * out.cos().sum() for index, out in enumerate(outputs.values())]).sum()
        gradients = torch.autograd.grad(total, [features, *heads.parameters()])
        found.append([*outputs.values(), *gradients])
    for ours, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=10 * TOLERANCE[dtype])
    assert list(outputs) == NAMES


@pytest.mark.parametrize("kind", OTHERS)
def test_what_may_be_more_than_its_layers_runs_by_itself(kind: str) -> None:
    heads = make(OTHERS[kind])
    assert not is_stacked(heads, StackedHeads())


def test_heads_are_grouped_by_structure_and_by_features() -> None:
    heads = make()
    heads["t3"] = Linear((D,), 1).double()
    one, other = torch.randn(2, B, D, dtype=torch.float64)
    stacked = StackedHeads()
    assert list(stacked.run(Outputs(), NAMES, dict.fromkeys(NAMES, one), heads)) == ["t0", "t1", "t2", "t4"]
    features = {"t0": one, "t1": other, "t2": other, "t3": other, "t4": other}
    assert list(stacked.run(Outputs(), NAMES, features, heads)) == ["t1", "t2", "t4"]
    assert not stacked.run(Outputs(), ["t0"], features, heads)
    maps = {name: torch.randn(B, 3, D, dtype=torch.float64) for name in NAMES}
    assert not stacked.run(Outputs(), NAMES, dict.fromkeys(NAMES, maps["t0"]), heads)


def test_another_dtype_is_another_kind() -> None:
    heads = make()
    heads["t1"].float()
    features = dict.fromkeys(NAMES, torch.randn(B, D, dtype=torch.float64))
    assert list(StackedHeads().run(Outputs(), NAMES, features, heads)) == ["t0", "t2", "t3", "t4"]


def hooked(head: Any) -> Callable[[], Any]:
    handle = head.layers[0].register_forward_hook(lambda *_: None)
    return lambda: handle.remove()


def hooked_backward(head: Any) -> Callable[[], Any]:
    handle = head.register_full_backward_hook(lambda *_: None)
    return lambda: handle.remove()


def patched(head: Any) -> Callable[[], Any]:
    head.layers[1].forward = torch.tanh
    return lambda: delattr(head.layers[1], "forward")


def compiled(head: Any) -> Callable[[], Any]:
    head.compile(backend="eager")
    return lambda: delattr(head, "_compiled_call_impl")


def pruned(head: Any) -> Callable[[], Any]:
    layer, untyped = head.layers[0].map, cast("Any", prune)
    untyped.random_unstructured(layer, "weight", 0.5)
    return lambda: untyped.remove(layer, "weight")


def normalised(head: Any) -> Callable[[], Any]:
    layer = head.layers[0].map
    parametrizations.weight_norm(layer)
    return lambda: nn.utils.parametrize.remove_parametrizations(layer, "weight")


@pytest.mark.parametrize("change", [hooked, hooked_backward, patched, compiled, pruned, normalised])
def test_a_change_of_one_head_is_seen_at_the_next_run(change: Callable[[Any], Callable[[], Any]]) -> None:
    heads, stacked = make(), StackedHeads()
    features = torch.randn(B, D, dtype=torch.float64)
    assert "t1" in stacked.run(Outputs(), NAMES, dict.fromkeys(NAMES, features), heads)
    undo = change(heads["t1"])
    assert list(stacked.run(Outputs(), NAMES, dict.fromkeys(NAMES, features), heads)) == ["t0", "t2", "t3", "t4"]
    torch.testing.assert_close(run(heads, features, stacked), run(heads, features, None), rtol=0, atol=1e-10)
    undo()
    assert "t1" in stacked.run(Outputs(), NAMES, dict.fromkeys(NAMES, features), heads)


def test_other_weights_layers_and_options_are_seen_at_the_next_run() -> None:
    head = sequence(lambda: nn.Linear(D, 3), lambda: nn.LeakyReLU(0.1), lambda: nn.Linear(3, 1))
    heads, stacked = make(head), StackedHeads()
    features = torch.randn(B, D, dtype=torch.float64)
    first: Any = heads["t0"]
    changes: list[Callable[[], Any]] = [
        lambda: setattr(first[0], "weight", nn.Parameter(torch.ones(3, D, dtype=torch.float64))),
        lambda: first.append(nn.Tanh()),
        lambda: setattr(heads["t1"][1], "negative_slope", 0.9),  # type: ignore[index]
        lambda: heads.update({"t2": head().double()}),
    ]
    for change in [lambda: None, *changes]:
        change()
        torch.testing.assert_close(run(heads, features, stacked), run(heads, features, None), rtol=0, atol=1e-10)
    assert is_stacked(heads, stacked)


def test_hooks_of_all_modules_are_heard() -> None:
    heads, stacked, seen = make(), StackedHeads(), []
    handle = nn.modules.module.register_module_forward_hook(lambda part, *_: seen.append(part))
    try:
        assert not is_stacked(heads, stacked)
        run(heads, torch.randn(B, D, dtype=torch.float64), stacked)
    finally:
        handle.remove()
    assert set(heads.values()) <= set(seen)
    assert is_stacked(heads, stacked)


def test_frozen_heads_get_no_gradient() -> None:
    heads = make()
    heads["t1"].requires_grad_(False)
    features = torch.randn(B, D, dtype=torch.float64)
    gradients = []
    for stacked in (None, StackedHeads()):
        heads.zero_grad()
        torch.stack([*run(heads, features, stacked).values()]).square().sum().backward()  # type: ignore[no-untyped-call]
        gradients.append({name: parameter.grad for name, parameter in heads.named_parameters()})
    assert all((gradient is None) == name.startswith("t1.") for name, gradient in gradients[1].items())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-10, allow_subclasses=False)


def test_under_autocast_products_are_in_half_precision_as_well() -> None:
    heads, features = make(HEADS["deep MLP"], torch.float32), torch.randn(B, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, ours = run(heads, features, None), run(heads, features, StackedHeads())
    assert {output.dtype for output in ours.values()} == {torch.bfloat16}
    torch.testing.assert_close(ours, plain, rtol=0.02, atol=0.02)


def test_a_second_derivative_is_that_of_one_head_after_the_other() -> None:
    heads, features = make(HEADS["deep MLP"]), torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    found = []
    for stacked in (None, StackedHeads()):
        total = torch.stack([*run(heads, features, stacked).values()]).sin().sum()
        (first,) = torch.autograd.grad(total, features, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [features, *heads.parameters()], allow_unused=True))
    for ours, plain in zip(*found, strict=True):
        if plain is not None:
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)


def test_readers_run_by_themselves_behind_those_that_they_read() -> None:
    graph, tasks = TaskGraph(NAMES, {"t3": ["t0"]}), tasks_of(NAMES)
    heads = make()
    heads["t3"] = Linear((D + 1,), 1).double()
    features = dict.fromkeys(NAMES, torch.randn(B, D, dtype=torch.float64))
    wanted, parts = graph.needed(NAMES), cast("Mapping[str, nn.Module]", heads)
    ours = run_heads(graph, wanted, features, parts, tasks, StackedHeads())
    assert isinstance(ours, Outputs)
    assert isinstance(ours.together(["t0", "t1", "t2"]), Tensor)
    torch.testing.assert_close(dict(ours), dict(run_heads(graph, wanted, features, parts, tasks)), rtol=0, atol=1e-10)


def test_outputs_are_together_as_long_as_nobody_replaces_one() -> None:
    outputs = Outputs()
    stack = torch.randn(3, B, 1)
    outputs.update(outputs.add_stack(["a", "b", "c"], stack))
    assert outputs.together(["a", "b", "c"]) is stack
    torch.testing.assert_close(outputs.together(["b", "c"]), stack[1:])
    for names in (["b", "a"], ["a", "c"]):
        assert isinstance(outputs.together(names), list)
    outputs["b"] = outputs["b"] * 2
    found = outputs.together(["a", "b", "c"])
    assert isinstance(found, list)
    assert found[1] is outputs["b"]


def test_tasks_whose_losses_are_taken_together_lie_together() -> None:
    tasks: dict[str, Task] = {}
    for name in "abcd":
        binary = name in "ac"
        tasks[name] = BinaryClassification(TargetSpec(classes=2)) if binary else Regression(TargetSpec())
    tasks["e"] = MulticlassClassification(TargetSpec(classes=3))
    heads = nn.ModuleDict({name: Linear((D,), task.head_size) for name, task in tasks.items()})
    names = list(tasks)
    features = dict.fromkeys(names, torch.randn(B, D))
    outputs: Any = run_heads(TaskGraph(names), names, features, heads, tasks, StackedHeads())  # type: ignore[arg-type]
    assert isinstance(outputs.together(["a", "c"]), Tensor)
    assert isinstance(outputs.together(["b", "d"]), Tensor)
    assert list(outputs) == names


def test_copies_and_pickles_start_afresh() -> None:
    heads, stacked = make(), StackedHeads()
    assert is_stacked(heads, stacked)
    for other in (copy.deepcopy(stacked), pickle.loads(pickle.dumps(stacked))):
        assert vars(other)["_heads"] is None
        assert is_stacked(copy.deepcopy(heads), other)


@pytest.mark.parametrize(
    ("heads", "rows", "features", "width", "together"),
    [
        (2, 512, 256, 64, False),
        (2, 2048, 256, 64, True),
        (3, 64, 32, 16, True),
        (32, 512, 256, 64, True),
        (8, 64, 512, 512, False),
        (8, 512, 512, 512, True),
        (128, 2**15, 256, 64, False),
    ],
)
def test_the_rule_is_one_of_sizes(heads: int, rows: int, features: int, width: int, together: bool) -> None:
    given = torch.empty(1).expand(rows, features)
    assert runs_together(heads, given, width, features * width) == together
    assert not runs_together(1, given, width, features * width)


def test_a_rule_of_ones_own() -> None:
    heads = make()
    assert not is_stacked(heads, StackedHeads(lambda *_: False))
    assert not is_stacked(heads, copy.deepcopy(StackedHeads(lambda *_: False)))
